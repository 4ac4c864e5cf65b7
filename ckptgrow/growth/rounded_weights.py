"""Which weights of few bits growth rounds, and so changes the function by: those times no power of two.

The algebra's factors are powers of two where everything doubles, with exceptions that the model decides: what it
multiplies by the root of its size needs 1/√2, a gain that is stored without its 1 becomes (1 + g)/2 − 1, three copies
share by thirds, and new coordinates are made up for by √(d/d') in the gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ckptgrow.growth.growing import Growing
from ckptgrow.growth.grown_weights import Weights
from ckptgrow.growth.lineage import Descent
from ckptgrow.growth.operator import Operator
from ckptgrow.spaces.gather import is_power_of_two
from ckptgrow.spaces.split import split_for

FEW_BITS = torch.finfo(torch.float32).eps  # dtypes with a larger step between numbers lose what people can see
MOST_TOLD = 3  # factors


def rounding_notes(growing: Growing, weights: Weights) -> list[str]:
    """A sentence for the user where the function is kept only up to one rounding of some weights; none where it is
    exact, or as exact as float32.
    """
    rounded = list(_rounded(growing, weights))
    if not rounded:
        return []
    numbered = "1 tensor" if len(rounded) == 1 else f"{len(rounded)} tensors"
    dtypes = " and ".join(sorted({str(one.dtype).removeprefix("torch.") for one in rounded}))
    factors = sorted({factor for one in rounded for factor in one.factors})
    told = ", ".join(f"{factor:.6g}" for factor in factors[:MOST_TOLD]) + (", …" if len(factors) > MOST_TOLD else "")
    return [
        f"weights times {told} are rounded once in {dtypes} ({numbered}): the function is kept up to that, which "
        "verify measures; float32 weights keep it"
    ]


@dataclass(frozen=True)
class _Rounded:
    """A tensor's dtype, and what rounds it."""

    dtype: torch.dtype
    factors: frozenset[float]


def _rounded(growing: Growing, weights: Weights) -> Iterator[_Rounded]:
    for one in growing.lineage:
        dtype = weights.in_module[one.name].dtype
        is_copied = not (one.old.is_buffer or one.is_zero or one.is_drawn or one.old.name in growing.old.claim.tied)
        if not is_copied or not dtype.is_floating_point or torch.finfo(dtype).eps <= FEW_BITS:
            continue
        factors = _factors(one, growing.operator) - {1.0}
        if not one.old.layout.offset:  # with one, (1 + g) times any factor, less 1, is rounded
            factors = frozenset(factor for factor in factors if not is_power_of_two(factor))
        if factors:
            yield _Rounded(dtype, factors)


def _factors(one: Descent, operator: Operator) -> frozenset[float]:
    """What a weight's old entries are multiplied by."""
    if one.share != 1:
        return frozenset({one.share})
    if one.growth.has_fresh:
        return one.growth.begun.factors
    split = split_for(one.growth, seed=operator.seed, name=one.old.canonical) if operator.separate == "split" else None
    return one.growth.weight(operator.block_weights).factors if split is None else split.whole.factors
