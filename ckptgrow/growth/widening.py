"""Growing width: the hidden size, heads and feed-forward units, by copies of old coordinates or by new ones.

Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, section 3.1; uneven copies:
Chen, Goodfellow, Shlens, "Net2Net", arXiv 1511.05641.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from ckptgrow.choices import Fresh, How, Separation
from ckptgrow.errors import RequestError
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.growth.contradictions import check_copies, check_width
from ckptgrow.growth.copied_spaces import multiplied, resized
from ckptgrow.growth.growing import Source
from ckptgrow.growth.growth_options import WidthOptions
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.padding import UNITS, padded_growths
from ckptgrow.growth.pipeline import grow
from ckptgrow.growth.refusals import check_exact
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.growth.rho import RHO
from ckptgrow.progress import Progress, silent
from ckptgrow.ranges import LARGEST_SIZE
from ckptgrow.spaces.gather import BlockWeights, diagonal, tile
from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layers import Layer
from ckptgrow.spaces.split import WHOLE
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_sizes

BLOCK_WEIGHTS: Mapping[How, BlockWeights] = {"diagonal": diagonal, "tile": tile, "pad": tile}
NOISE = 0.25  # where noise is asked for without its strength; more makes the loss jump after growth


def width(
    source: Source,
    target: str | Path | None,
    *,
    factor: int | None = None,
    ffn: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    how: How = "diagonal",
    separate: Separation | None = None,
    noise: float | Literal["auto"] = "auto",
    spread: float | None = None,
    fresh: Fresh | None = None,
    seed: int = 0,
    request: StateRequest | None = None,
    progress: Progress = silent,
) -> GrowthResult:
    """Grows a checkpoint's width: everything by a whole `factor` (2 where no size is given), or single spaces; beside a
    factor, a size is what one space becomes instead.

    The function stays the same; moments become those that the grown model would have gathered (exactly, without
    separation). `separate` says what tells the copies apart: "split" (the default) deals every old weight out to the
    copies that it reads, exact in every dtype, with `spread` how unequally: two copies get ½ ± spread of it, so at ½
    (the default) one has all (see `spaces.split`); "noise" adds terms that the function cannot see but its rounding
    can, of strength `noise` in units of each matrix's root mean square; "none" leaves the copies equal, with `how`
    their blocks. A number for `noise` chooses between the latter two by itself. With `how` "pad" new coordinates copy
    nothing, so that `hidden` may have any size, and `fresh` says how they begin (see `padding`); a factor multiplies
    every size that the config says.

    Raises RequestError for sizes that cannot be, CkptgrowError for what is wrong with the source.
    """
    asked = (("residual", hidden), ("heads", heads), ("kv_heads", kv_heads), ("ffn", ffn))
    sizes = {space: size for space, size in asked if size is not None}
    said = WidthOptions(factor=factor, hidden=hidden, ffn=ffn, heads=heads, kv_heads=kv_heads)
    told_apart = WidthOptions(how=how, separate=separate, noise=noise, spread=spread, fresh=fresh)
    check_width({**said, **told_apart}, request or StateRequest())
    has_copies = how != "pad" and (factor is not None or set(sizes) != {"kv_heads"})
    plan = _Plan(
        factor=factor or (None if sizes else 2),
        sizes=sizes,
        how=how,
        separation=_separation(separate, noise, spread) if has_copies else _Separating("none"),
        fresh=fresh,
        seed=seed,
    )
    return grow(source, target, plan.operator, request or StateRequest(), progress)


@dataclass(frozen=True)
class _Separating:
    """What tells the copies apart, with the noise's strength and the split's spread; 0 where there is none."""

    kind: Separation
    noise: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A growth in width: by a factor, or to the sizes of some spaces."""

    factor: int | None
    sizes: Mapping[str, int]
    how: How
    separation: _Separating
    fresh: Fresh | None
    seed: int

    def operator(self, old: Architecture) -> Operator:
        """The operator on a model; raises RequestError for sizes that this model cannot have."""
        _check_size(old.sizes["residual"] * (self.factor or 1), *self.sizes.values())
        if self.how == "pad" and self.factor is not None:
            return replace(self, factor=None, sizes={**_times(old, self.factor), **self.sizes}).operator(old)
        growths, config = self._padded(old) if self.how == "pad" else self._copied(old)
        if self.separation.kind == "split":
            for space, size in self.sizes.items():
                check_copies(f"{space} {size}", int(growths[space].num_copies.max()))
        if self.sizes:
            old.with_config(config).check_accepted()  # some families want hidden to be a multiple of heads all the same
        has_dropout = any(old.config.get(field) for field in old.family.dropout)
        return Operator(
            growths=growths,
            layers=[Layer(index, "old") for index in range(old.num_layers)],
            config=config,
            trapped=self.separation.kind == "none" and not has_dropout and self.has_equal_copies,
            rho=RHO["width"],
            block_weights=BLOCK_WEIGHTS[self.how],
            separate=self.separation.kind,
            noise=self.separation.noise,
            spread=self.separation.spread,
            seed=self.seed,
            record=self._record(),
        )

    @property
    def has_equal_copies(self) -> bool:
        """Whether copies get equal gradients unless something separates them; those of key heads alone do not."""
        return self.how != "pad" and (self.factor is not None or set(self.sizes) != {"kv_heads"})

    def _copied(self, old: Architecture) -> tuple[dict[str, Growth], dict[str, Any]]:
        """How every space grows by copies, and the grown config."""
        growths = multiplied(old, self.factor, self.sizes) if self.factor else resized(old, self.sizes)
        return growths, with_sizes(old, {space: one.num_new for space, one in growths.items()})

    def _record(self) -> OperatorRecord:
        """What the history keeps of it."""
        asked = {"operator": "width", "factor": self.factor, **self.sizes, "how": self.how}
        separation = {
            "separate": self.separation.kind,
            "noise": self.separation.noise,
            "spread": self.separation.spread,
            "seed": self.seed,
        }
        fresh = {"fresh": self.fresh} if self.how == "pad" else {}
        return cast(OperatorRecord, cast(object, {**asked, **separation, **fresh}))

    def _padded(self, old: Architecture) -> tuple[dict[str, Growth], dict[str, Any]]:
        """How every space grows by coordinates that copy nothing, and the grown config."""
        for space in self.sizes:
            check_exact(old, space, *(["hidden"] if space == "residual" else []))
        return padded_growths(old, self.sizes, self.fresh)


def _times(old: Architecture, factor: int) -> dict[str, int]:
    """The sizes that ⟦how pad⟧ takes, a factor of times as large, as far as the config says them."""
    fields = {space: old.family.sizes[space].config for space in ("residual", *UNITS) if space in old.sizes}
    said = [space for space, field in fields.items() if field is not None and old.config.get(field) is not None]
    return {space: factor * old.sizes[space] for space in said}


def _check_size(*new: int) -> None:
    if max(new) > LARGEST_SIZE:
        raise RequestError(f"a size of {max(new)} is beyond any model, expected at most {LARGEST_SIZE}")


def _separation(separate: Separation | None, noise: float | Literal["auto"], spread: float | None) -> _Separating:
    """What tells copies apart, by options that do not contradict each other."""
    kind: Separation = separate or ("split" if noise == "auto" else "noise" if noise else "none")
    if kind == "split":
        return _Separating(kind, spread=WHOLE if spread is None else float(spread))
    return _Separating(kind, noise=(NOISE if noise == "auto" else float(noise)) if kind == "noise" else 0.0)
