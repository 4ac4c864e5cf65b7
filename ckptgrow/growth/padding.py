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

from collections.abc import Mapping
from typing import Any

from ckptgrow.errors import RequestError
from ckptgrow.families.family import Padding
from ckptgrow.spaces.growth import Growth, identity, padded
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_sizes

UNITS = ("heads", "kv_heads", "ffn", "dense_ffn")  # drawn, and read by zeros


def padded_growths(old: Architecture, sizes: Mapping[str, int]) -> tuple[dict[str, Growth], dict[str, Any]]:
    """How every space grows, and the grown config; `sizes` are those asked for ("residual", "heads", …).

    Raises RequestError for sizes that cannot be, or a family whose config forbids it.
    """
    new = {**old.sizes, **_units(old, sizes)}
    hidden = sizes.get("residual", old.sizes["residual"])
    if hidden != old.sizes["residual"]:
        new |= dict.fromkeys(old.family.residual, hidden)
    for space in sizes:
        if space not in old.sizes:
            raise RequestError(f"⟦{_option(space)}⟧: {old.family.model_type} has no such size of its own")
        if new[space] < old.sizes[space]:
            raise RequestError(f"⟦{_option(space)} {new[space]}⟧: expected at least the old size, {old.sizes[space]}")
    if new == old.sizes:
        raise RequestError(f"⟦{_option(next(iter(sizes)))}⟧: the model has this size already, expected a larger one")
    changed = with_sizes(old, new)
    growths = {space: identity(size) for space, size in old.sizes.items()}
    growths |= {
        space: padded(old.sizes[space], new[space], "drawn", read_drawn=False)
        for space in UNITS
        if space in old.sizes and new[space] > old.sizes[space]
    }
    if hidden > old.sizes["residual"]:
        padding = _padding_of(old)
        changed[padding.eps] = old.config[padding.eps] * old.sizes["residual"] / hidden
        growths |= _residual(old, padding, hidden)
    return growths, changed


def _residual(old: Architecture, padding: Padding, hidden: int) -> dict[str, Growth]:
    ratio = hidden / old.sizes["residual"]
    powers = padding.scale_tied if old.is_tied else padding.scale
    return {
        space: padded(
            old.sizes[space],
            hidden,
            "mean" if padding.norm == "layer" and space == "residual" else "zero",
            read_drawn=True,
            norm=ratio**-0.5,
            scale=ratio ** powers.get(space, 0.0),
        )
        for space in old.family.residual
    }


def _units(old: Architecture, asked: Mapping[str, int]) -> dict[str, int]:
    """The sizes asked for, and those that follow."""
    units = {space: asked[space] for space in UNITS if space in asked}
    units = {**_heads_for_hidden(old, asked), **units}
    units |= _key_heads_in_proportion(old, units)
    return {**_derived_ffn(old, {**units, "residual": asked.get("residual", old.sizes["residual"])}), **units}


def _heads_for_hidden(old: Architecture, asked: Mapping[str, int]) -> dict[str, int]:
    """As many more heads as another hidden size needs where the size of a head is fixed."""
    hidden, head = asked.get("residual", old.sizes["residual"]), old.sizes["head"]
    if old.family.sizes["head"].config is not None or hidden == old.sizes["residual"]:
        return {}
    if hidden % head:
        raise RequestError(
            f"⟦hidden {hidden}⟧: {old.family.model_type} has heads of {head} each and no field for that, expected a "
            f"multiple of {head}"
        )
    return {"heads": hidden // head}


def _key_heads_in_proportion(old: Architecture, units: Mapping[str, int]) -> dict[str, int]:
    """Key heads in the old proportion to heads."""
    if "kv_heads" not in old.sizes or "heads" not in units:
        return {}
    heads, kv_heads = old.sizes["heads"], old.sizes["kv_heads"]
    proportional, rest = divmod(kv_heads * units["heads"], heads)
    if rest or units.get("kv_heads", proportional) != proportional:
        raise RequestError(
            f"⟦heads {units['heads']}⟧: {heads} heads share {kv_heads} key heads, expected both in that proportion"
        )
    return {"kv_heads": proportional}


def _derived_ffn(old: Architecture, units: Mapping[str, int]) -> dict[str, int]:
    """Feed-forward units that the architecture derives from other sizes."""
    fields = {old.family.sizes[space].config: size for space, size in units.items()}
    derived = old.with_config({**old.config, **{field: size for field, size in fields.items() if field}}).sizes
    found: dict[str, int] = {}
    for space in ("ffn", "dense_ffn"):
        field = old.family.sizes[space].config if space in old.sizes else None
        if space in old.sizes and (field is None or old.config.get(field) is None):
            found[space] = derived[space]
    return found


def _padding_of(old: Architecture) -> Padding:
    if old.family.padding is None:
        raise RequestError(
            f"{old.where}: {old.family.model_type} cannot grow by fresh coordinates exactly: its table says of no norm "
            "and ε that could make up for them; ⟦factor K⟧ multiplies the hidden size"
        )
    return old.family.padding


def _option(space: str) -> str:
    return "hidden" if space == "residual" else space
