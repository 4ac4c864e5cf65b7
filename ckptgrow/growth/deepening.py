"""Growing depth: new layers between or after the old ones, as exact identities or as copies.

Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptgrow.choices import NewLayer, Place
from ckptgrow.errors import RequestError
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.growth.contradictions import check_depth
from ckptgrow.growth.growing import Source
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.pipeline import grow
from ckptgrow.growth.refusals import check_exact
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.growth.rho import RHO
from ckptgrow.progress import Progress, silent
from ckptgrow.ranges import MOST_LAYERS
from ckptgrow.spaces.growth import identities
from ckptgrow.spaces.layers import Layer, interspersed, keeps_order, listed, stretched
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_layers


def depth(
    source: Source,
    target: str | Path | None,
    *,
    factor: int | None = None,
    layers: Sequence[int] | None = None,
    every: int | None = None,
    place: Place = "alternate",
    new: NewLayer = "zero-output",
    seed: int = 0,
    request: StateRequest | None = None,
    progress: Progress = silent,
) -> GrowthResult:
    """Adds layers: `factor` times as many (2 where nothing else is said), one behind `every` so many old ones, or as
    `layers` lists them.

    `layers` names an old layer for every new one: its first mention is that layer, a later one a new layer made from
    it. With "zero-output" and "zero-norm" new layers are exact identities with zero moments at step 0. All others
    change the function: "copy" makes copies with their moments, "ode" copies of which each, and the old layer, writes
    its part of the residual stream, with moments by the same parts, and "random" draws layers by `seed`, with zero
    moments at step 0 (see `spaces.layers`).

    Raises RequestError for layers that cannot be, CkptgrowError for what is wrong with the source.
    """
    asked = _Asked(factor=factor, layers=layers, every=every, place=place, new=new, seed=seed)
    check_depth({"factor": factor, "layers": layers, "every": every}, request or StateRequest())
    return grow(source, target, asked.operator, request or StateRequest(), progress)


APPROXIMATE = {
    "copy": "copied layers act twice, so the function is another one, and the loss higher until training mends it",
    "ode": "shares of a layer act one after another, so the function is nearly the old one, and not quite",
}  # what to say of new layers that do not keep the function


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Which layers are asked for: where they go, and what new ones are."""

    factor: int | None
    layers: Sequence[int] | None
    every: int | None
    place: Place
    new: NewLayer
    seed: int

    def operator(self, old: Architecture) -> Operator:
        """The operator on a model; raises RequestError for layers that this model cannot have."""
        self._check_exact(old)
        mapped = self._mapped(old.num_layers)
        return Operator(
            growths=identities(old.sizes),
            layers=mapped,
            config=with_layers(old, [one.source for one in mapped]),
            trapped=False,
            rho=RHO["depth"],
            seed=self.seed,
            record=self._record(mapped),
            notes=[APPROXIMATE[self.new]] if self.new in APPROXIMATE else [],
        )

    def _record(self, mapped: Sequence[Layer]) -> OperatorRecord:
        """What the history keeps of it."""
        record: OperatorRecord = {
            "operator": "depth",
            "new": self.new,
            "layers": [[one.source, one.kind] for one in mapped],
        }
        return {**record, "seed": self.seed} if self.new == "random" else record

    def _check_exact(self, old: Architecture) -> None:
        if self.new not in ("copy", "random") and not old.family.depth_is_exact:
            what = "has a share in a sum" if self.new == "ode" else "is an identity"
            raise RequestError(
                f"{old.where}: {old.family.model_type} normalises after each block, so no layer of kind {self.new} "
                f"{what}; ⟦new copy⟧ stacks layers, which changes the function"
            )
        check_exact(old, "depth", self.new)

    def _mapped(self, num_old: int) -> tuple[Layer, ...]:
        if self.layers is not None:
            return _explicit(self.layers, num_old, self.new)
        if self.every is not None:
            if self.every > num_old:
                raise RequestError(f"⟦every {self.every}⟧: adds no layer to {num_old}, expected at most {num_old}")
            return interspersed(num_old, self.every, self.new)
        factor = self.factor or 2
        if num_old * factor > MOST_LAYERS:
            raise RequestError(f"⟦factor {factor}⟧: expected at most {MOST_LAYERS} layers of {num_old}")
        return stretched(num_old, factor, self.place, self.new)


def _example(num_old: int) -> str:
    """A list of layers that doubles the last one."""
    return _in_ranges([*range(num_old), num_old - 1])


def _explicit(layers: Sequence[int], num_old: int, new: NewLayer) -> tuple[Layer, ...]:
    outside = [layer for layer in layers if not 0 <= layer < num_old]
    if outside:
        raise RequestError(
            f"⟦layers {_in_ranges(outside)}⟧: no such layer, expected for each new layer the old one that it comes "
            f"from, 0 to {num_old - 1}, as {_example(num_old)}"
        )
    mapped = listed(layers, new)
    if not keeps_order(mapped, num_old):
        raise RequestError(
            f"⟦layers {_in_ranges(layers)}⟧: expected for each layer the old one that it comes from, where every old "
            f"one, 0 to {num_old - 1}, has to come up, first mentions in order, as {_example(num_old)}"
        )
    if len(mapped) == num_old:
        raise RequestError(f"⟦layers {_in_ranges(layers)}⟧: adds no layer, expected more than {num_old}")
    return mapped


def _in_ranges(layers: Sequence[int]) -> str:
    """Numbers of layers as they are typed: those that follow each other as a range.

    >>> _in_ranges([0, 1, 1, 2, 3, 7])
    '0-1,1-3,7'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
