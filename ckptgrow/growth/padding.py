"""Growing by fresh coordinates: any hidden size, exactly, and with nothing trapped, for there are no copies.

Residual coordinates are written as zero (RMSNorm) or as the mean of the old ones (LayerNorm) and read through drawn
columns. With d → d' of them a norm's gain is multiplied by √(d/d') and its ε by d/d', so that

    γ √(d/d') x / √(Σx²/d' + ε d/d')  =  γ x / √(Σx²/d + ε).

New heads and feed-forward units are drawn, and read by columns of zeros. Gradients of old entries stay as they were,
those of gains are √(d'/d) as large; behind a LayerNorm what writes the residual stream has no constant factor, because
the new coordinates' gradients enter the mean that the norm's backward pass takes away.

Source: Wang et al., "LEMON: Lossless Model Expansion", arXiv 2310.07999; the gradients are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ckptgrow.choices import FreshMoments
from ckptgrow.errors import RequestError
from ckptgrow.families.family import Family, Padding
from ckptgrow.spaces.growth import Growth, identity, padded
from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.state.sizes import is_tied, sizes_of, with_sizes

UNITS = ("heads", "kv_heads", "ffn", "dense_ffn")  # drawn, and read by zeros


def padded_growths(
    family: Family, config: Mapping[str, Any], sizes: Mapping[str, int], where: str
) -> tuple[dict[str, Growth], dict[str, Any]]:
    """How every space grows, and the grown config; `sizes` are those asked for ("residual", "heads", …).

    Raises RequestError for sizes that cannot be, or a family whose config forbids it.
    """
    old = sizes_of(family, config, where)
    new = {**old, **_units(family, config, old, sizes, where)}
    hidden = sizes.get("residual", old["residual"])
    if hidden != old["residual"]:
        new |= dict.fromkeys(family.residual, hidden)
    for space in sizes:
        if space not in old:
            raise RequestError(f"⟦{_option(space)}⟧: {family.model_type} has no such size of its own")
        if new[space] < old[space]:
            raise RequestError(f"⟦{_option(space)} {new[space]}⟧: expected at least the old size, {old[space]}")
    if new == old:
        raise RequestError(f"⟦{_option(next(iter(sizes)))}⟧: the model has this size already, expected a larger one")
    changed = with_sizes(family, config, new, where)
    growths = {space: identity(size) for space, size in old.items()}
    growths |= {
        space: padded(old[space], new[space], "drawn", read_drawn=False)
        for space in UNITS
        if space in old and new[space] > old[space]
    }
    if hidden > old["residual"]:
        padding = _padding_of(family, where)
        changed[padding.eps] = config[padding.eps] * old["residual"] / hidden
        growths |= _residual(family, padding, old, hidden, tied=is_tied(family, config))
    return growths, changed


def first_update_note(states: Sequence[OptimizerState], fresh_moments: FreshMoments) -> list[str]:
    """What young moments at an old step do to the first update of new entries, for Adam and its relatives: with β₁, β₂
    it is (1 − β₁) g / √((1 − β₂) g²) from zeros, and (1 − β₁) g / √v from the mean v of old second moments, in lr.
    """
    betas = {
        tuple(group.options["betas"])
        for state in states
        if "exp_avg_sq" in state.state_keys
        for group in state.groups
        if "betas" in group.options
    }
    second = 1.0 if fresh_moments == "mean" else None
    sizes = [(1 - float(b1)) / math.sqrt(second or 1 - float(b2)) for b1, b2 in betas if float(b2) < 1]
    if not sizes:
        return []
    moments = "zero moments" if fresh_moments == "zero" else "zero first and mean second moments"
    note = f"new entries of old tensors start with {moments}: their first updates are about {max(sizes):.2g} lr"
    return [note + ("; ⟦rewarm N⟧ makes them smaller" if max(sizes) > 1 else "")]


def _residual(
    family: Family, padding: Padding, old: Mapping[str, int], hidden: int, *, tied: bool
) -> dict[str, Growth]:
    ratio = hidden / old["residual"]
    powers = padding.scale_tied if tied else padding.scale
    return {
        space: padded(
            old[space],
            hidden,
            "mean" if padding.norm == "layer" and space == "residual" else "zero",
            read_drawn=True,
            norm=ratio**-0.5,
            scale=ratio ** powers.get(space, 0.0),
        )
        for space in family.residual
    }


def _units(
    family: Family, config: Mapping[str, Any], old: Mapping[str, int], sizes: Mapping[str, int], where: str
) -> dict[str, int]:
    """The sizes asked for, and those that follow: as many more heads as a fixed head size needs, and key heads in the
    old proportion; feed-forward units where the architecture derives them.
    """
    hidden = sizes.get("residual", old["residual"])
    units = {space: sizes[space] for space in UNITS if space in sizes}
    if family.sizes["head"].config is None and hidden != old["residual"]:
        if hidden % old["head"]:
            raise RequestError(
                f"⟦hidden {hidden}⟧: {family.model_type} has heads of {old['head']} each and no field for that, "
                f"expected a multiple of {old['head']}"
            )
        units.setdefault("heads", hidden // old["head"])
    if "kv_heads" in old and "heads" in units:
        proportional, rest = divmod(old["kv_heads"] * units["heads"], old["heads"])
        if rest or units.get("kv_heads", proportional) != proportional:
            raise RequestError(
                f"⟦heads {units['heads']}⟧: {old['heads']} heads share {old['kv_heads']} key heads, expected both in "
                "that proportion"
            )
        units["kv_heads"] = proportional
    fields = {family.sizes[space].config: size for space, size in {**units, "residual": hidden}.items()}
    derived = sizes_of(family, {**config, **{field: size for field, size in fields.items() if field}}, where)
    for space in ("ffn", "dense_ffn"):
        field = family.sizes[space].config if space in family.sizes else None
        if space in old and (field is None or config.get(field) is None):
            units.setdefault(space, derived[space])
    return units


def _padding_of(family: Family, where: str) -> Padding:
    if family.padding is None:
        raise RequestError(
            f"{where}: {family.model_type} cannot grow by fresh coordinates exactly: its table says of no norm and ε "
            "that could make up for them; ⟦factor K⟧ multiplies the hidden size"
        )
    return family.padding


def _option(space: str) -> str:
    return "hidden" if space == "residual" else space
