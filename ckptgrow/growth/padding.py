"""Growing by fresh coordinates: any hidden size, exactly, and with nothing trapped, for there are no copies.

One side of what is new is zero, so that the function stays, and the other is not, so that the zeros get gradients:

                 residual coordinates are             new heads and feed-forward units have
    zero-copy    read by copies of old columns        zero values, or one zero factor; the rest copied
    zero-random  read by drawn columns                the same; the rest drawn
    random-zero  –                                    drawn rows, read by columns of zeros

Residual coordinates are always written as zero (RMSNorm) or as the mean of the old ones (LayerNorm): drawn ones would
be in the norm. With d → d' of them a norm's gain is multiplied by √(d/d') and its ε by d/d', so that

    γ √(d/d') x / √(Σx²/d' + ε d/d')  =  γ x / √(Σx²/d + ε).

Where ε must stay, as norms over heads have it too, the stream itself is written √(d'/d) as large, and

    γ √(d/d') · √(d'/d) x / √(d'/d Σx²/d' + ε)  =  γ x / √(Σx²/d + ε).

Of a gated unit act(g)·u only u may be zero, for with g = u = 0 both have gradient zero for ever; of a unit act(u) with
one matrix alone u may be zero where act(0) = 0 and act'(0) ≠ 0, which is so for GELU and SiLU and not for ReLU. A head
is zero by its values, which must be its own. Without any of these `zero-copy` and `zero-random` are refused.

Gradients of old entries stay as they were, those of gains are √(d'/d) as large; behind a LayerNorm what writes the
residual stream has no constant factor, because the new coordinates' gradients enter the mean that the norm's backward
pass takes away. New entries begin with zero moments: they have seen no gradient, and whatever is multiplied by a zero
of the other side had gradient zero.

Source: Wang et al., "LEMON: Lossless Model Expansion", arXiv 2310.07999; "SPARKLING", arXiv 2602.02472 (zero-copy and
its rivals compared); the gradients, and what may be zero, are derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptgrow.choices import Fresh
from ckptgrow.errors import RequestError
from ckptgrow.families.family import Padding
from ckptgrow.spaces.growth import BoolVector, Filling, Growth, Read, identities, padded
from ckptgrow.spaces.layout import Axis, parse
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_sizes

UNITS = ("heads", "kv_heads", "ffn", "dense_ffn")  # spaces beside the residual stream whose sizes ⟦how pad⟧ takes
OF_UNITS: Mapping[Fresh, Filling] = {
    "zero-copy": Filling("copied", "zero", "copied"),
    "zero-random": Filling("drawn", "zero", "drawn"),
    "random-zero": Filling("drawn", "drawn", "zero"),
}
ALIVE_AT_ZERO = (  # act(0) = 0 and act'(0) ≠ 0, by transformers' names
    *("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"),
    *("quick_gelu", "silu", "swish", "mish", "tanh", "linear", "hardswish"),
)


def padded_growths(
    old: Architecture, sizes: Mapping[str, int], fresh: Fresh | None
) -> tuple[dict[str, Growth], dict[str, Any]]:
    """How every space grows, and the grown config; `sizes` are those asked for ("residual", "heads", …); `fresh` is as
    in the module's head, None "zero-random" for residual coordinates and "random-zero" for units.

    Raises RequestError for sizes that cannot be, a family whose config forbids it, or units that would be dead.
    """
    new = {**old.sizes, **_units(old, sizes)}
    hidden = sizes.get("residual", old.sizes["residual"])
    if hidden != old.sizes["residual"]:
        new |= dict.fromkeys(_stream(old), hidden)
    for space in sizes:
        if space not in old.sizes:
            raise RequestError(f"⟦{_option(space)}⟧: {old.family.model_type} has no such size of its own")
        if new[space] < old.sizes[space]:
            raise RequestError(f"⟦{_option(space)} {new[space]}⟧: expected at least the old size, {old.sizes[space]}")
    if new == old.sizes:
        raise RequestError(f"⟦{_option(next(iter(sizes)))}⟧: the model has this size already, expected a larger one")
    changed = with_sizes(old, new)
    growths = identities(old.sizes)
    for space in (one for one in UNITS if one in old.sizes and new[one] > old.sizes[one]):
        _check_alive(old, space, fresh)
        _check_values(old, new, space, fresh)
        growths[space] = padded(old.sizes[space], new[space], OF_UNITS[fresh or "random-zero"])
    if hidden > old.sizes["residual"]:
        padding = _padding_of(old)
        if padding.eps is not None:
            changed[padding.eps] = old.config[padding.eps] * old.sizes["residual"] / hidden
        growths |= _residual(old, padding, hidden, fresh or "zero-random")
    return growths, changed


def _check_alive(old: Architecture, space: str, fresh: Fresh | None) -> None:
    """Raises RequestError where units that are written as zero would not be silent, or never get a gradient."""
    if fresh in (None, "random-zero") or space not in ("ffn", "dense_ffn"):
        return
    silenced = np.concatenate(_silenced(old, space))
    if not silenced.any():
        raise RequestError(
            f"{old.where}: ⟦fresh {fresh}⟧ silences new units by zeros in one factor, and no factor of "
            f"{old.family.model_type}'s units does that, expected a family whose up does; use ⟦fresh random-zero⟧"
        )
    name = old.config.get(old.family.activation) if old.family.activation else None
    if silenced.all() and name not in ALIVE_AT_ZERO:
        raise RequestError(
            f"{old.where}: ⟦fresh {fresh}⟧ writes new units as zero, and with the activation {name} they would not be "
            "silent there or never get a gradient, expected one as gelu or silu; use ⟦fresh random-zero⟧"
        )


def _check_values(old: Architecture, new: Mapping[str, int], space: str, fresh: Fresh | None) -> None:
    """Raises RequestError where new heads would read values that are not new, and so not zero."""
    if fresh in (None, "random-zero") or space != "heads":
        return
    grown = [one for one in ("heads", "kv_heads") if one in old.sizes and new[one] > old.sizes[one]]
    if not any(axis.silences(space) for space in grown for axis in _written_axes(old)):
        raise RequestError(
            f"{old.where}: ⟦fresh {fresh}⟧ silences new heads by zero values, and those of "
            f"{old.family.model_type} read none of their own; leave ⟦fresh⟧ out, which reads the heads through zeros"
        )


def _silenced(old: Architecture, space: str) -> list[BoolVector]:
    """For every tensor that writes a space, the coordinates whose zeros silence a unit: of gated units one factor."""
    written = [axis for axis in _written_axes(old) if space in axis.spaces]
    sizes = identities(old.sizes)
    grown = [axis.growth(sizes) for axis in written]
    return [np.zeros(one.num_new, np.bool_) if one.silencing is None else one.silencing for one in grown]


def _written_axes(old: Architecture) -> list[Axis]:
    """What the model's tensors write, axis by axis."""
    layouts = [parse(one.layout) for one in old.family.parameters if old.holds(one.when)]
    return [axis for layout in layouts for axis in layout.axes if axis.role == "out"]


def _stream(old: Architecture) -> list[str]:
    """The spaces that are as large as the residual stream; embeddings may be narrower and stay so."""
    return [space for space in old.family.residual if old.sizes[space] == old.sizes["residual"]]


def _residual(old: Architecture, padding: Padding, hidden: int, fresh: Fresh) -> dict[str, Growth]:
    if fresh == "random-zero":
        raise RequestError(
            f"⟦fresh random-zero⟧ ⟦hidden {hidden}⟧: drawn coordinates of the residual stream would be in its norms, "
            "expected zero-copy or zero-random"
        )
    read: Read = "copied" if fresh == "zero-copy" else "drawn"
    ratio = hidden / old.sizes["residual"]
    powers = padding.scale_tied if old.is_tied else padding.scale
    return {
        space: padded(
            old.sizes[space],
            hidden,
            Filling("mean" if padding.norm == "layer" and space == "residual" else "zero", read=read),
            norm=ratio**-0.5,
            scale=ratio ** powers.get(space, 0.0),
        )
        for space in _stream(old)
    }


def _units(old: Architecture, asked: Mapping[str, int]) -> dict[str, int]:
    """The sizes that are asked for, and those that follow from them."""
    units = {space: asked[space] for space in UNITS if space in asked}
    units = {**_heads_for_hidden(old, asked), **units}
    units |= _key_heads_in_proportion(old, units)
    return {**_derived_ffn(old, {**units, "residual": asked.get("residual", old.sizes["residual"])}), **units}


def _heads_for_hidden(old: Architecture, asked: Mapping[str, int]) -> dict[str, int]:
    """The number of heads for another hidden size, where the config has no field for the size of a head."""
    hidden = asked.get("residual", old.sizes["residual"])
    if "head" not in old.sizes or old.family.sizes["head"].config is not None or hidden == old.sizes["residual"]:
        return {}
    head = old.sizes["head"]
    if hidden % head:
        least = old.sizes["residual"]
        near = sorted({max(least, hidden // head * head), max(least, -(-hidden // head) * head)})
        raise RequestError(
            f"⟦hidden {hidden}⟧: {old.family.model_type} has heads of {head} each and no field for that, expected a "
            f"multiple of {head}, at least {least}; the nearest is {' or '.join(map(str, near))}"
        )
    return {"heads": hidden // head}


def _key_heads_in_proportion(old: Architecture, units: Mapping[str, int]) -> dict[str, int]:
    """The number of key heads in the old proportion to the number of heads; one alone stays so, unless asked for."""
    if "kv_heads" not in old.sizes or "heads" not in units:
        return {}
    heads, kv_heads = old.sizes["heads"], old.sizes["kv_heads"]
    if kv_heads == units.get("kv_heads", kv_heads) == 1:
        return {"kv_heads": 1}
    proportional, rest = divmod(kv_heads * units["heads"], heads)
    if rest or units.get("kv_heads", proportional) != proportional:
        raise RequestError(
            f"⟦heads {units['heads']}⟧: {heads} heads share {kv_heads} key heads, expected both in that proportion"
        )
    return {"kv_heads": proportional}


def _derived_ffn(old: Architecture, units: Mapping[str, int]) -> dict[str, int]:
    """Feed-forward units that the architecture derives from other sizes; those that are as many as others where the
    config says nothing stay, and are said then.
    """
    fields = {old.family.sizes[space].config: size for space, size in units.items()}
    derived = old.with_config({**old.config, **{field: size for field, size in fields.items() if field}}).sizes
    found: dict[str, int] = {}
    for space in ("ffn", "dense_ffn"):
        size = old.family.sizes.get(space)
        if size is not None and size.same is None and (size.config is None or old.config.get(size.config) is None):
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
