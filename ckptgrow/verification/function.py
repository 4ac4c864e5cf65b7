"""Whether both models compute the same logits on the same tokens, up to what rounding can change.

float64, float32    They may differ by a few hundred roundings of the largest logit. A deep model with noise multiplies
                    rounding errors: there they may differ by a multiple of what one rounding of each weight changes in
                    the grown model's own logits, but by no more than `BEARABLE`: beyond that the function is lost.
bfloat16            The grown model's error may be twice the small model's own, both against the small model in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ckptgrow.verification.dense_mixtures import restating_rounds
from ckptgrow.verification.kept_tokens import KeptTokens, loss_rise
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.models import Models
from ckptgrow.verification.new_rows import bound_of
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.precision import TOLERANCES, rounding
from ckptgrow.verification.report import Function
from ckptgrow.verification.samples import logits_of
from ckptgrow.verification.weights import WeightScale

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OWN_ERRORS = 2.0  # times the small model's own error in bfloat16
RESPONSES = 30.0  # times the change that one rounding makes: draws differ, and so do sums in another order
EXACT = 1e-12  # of the largest value: weights that growth has not rounded
BEARABLE = {torch.float64: 1e-2, torch.float16: 0.5}  # of the largest logit, from a rounding as coarse as this on


def compared(
    pair: Pair,
    models: Models,
    samples: Sequence[torch.Tensor],
    weights: Mapping[str, WeightScale],
    known: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]] = ((), ()),
) -> Function:
    """Compares the logits of both models on `samples`; `known`: those of the small and of the grown model on the first
    of them, where they are there already.

    Where the fixed tolerance is not met, the grown model is run once more with weights that are perturbed by one
    rounding.
    """
    kept, bound = KeptTokens.of(pair), bound_of(pair)
    scale = worst = own = 0.0
    rises: list[float] = []
    for number, sample in enumerate(samples):
        small, grown = _logits_of_both(models, sample, [there[number : number + 1] for there in known])
        reference = small if models.exact is None else _logits(models.exact, sample)
        scale = max(scale, largest(reference.double()))
        worst = max(worst, _difference(reference, grown))
        own = max(own, _difference(reference, small))
        rises += [] if kept is None else [loss_rise((models.small, models.grown), sample)]
    relative, own = (one / scale if scale > 0 else one for one in (worst, own))
    rise = max(rises, default=None)
    dtype = models.small.dtype
    if models.exact is not None:
        tolerance = max(OWN_ERRORS * own, rounding(dtype))
        how = f"by the small model's own error in {_name(dtype)}, {own:.1e} of the largest logit"
        return _judged(worst, relative, tolerance, how, (rise, bound))
    tolerance, how = TOLERANCES[dtype], f"by a few hundred roundings of {_name(dtype)}"
    if relative > tolerance and _can_round(pair, weights, relative):
        stored = _stored_rounding(pair, weights, dtype)
        with models.perturbed(stored) as perturbed:
            changed = _logits(perturbed, samples[0])
        response = _difference(_logits(models.grown, samples[0]), changed) / scale
        tolerance = max(tolerance, min(RESPONSES * response, _bearable(stored)))
        how = f"by the grown model's response to rounding its weights, {response:.1e} of the largest logit"
    return _judged(worst, relative, tolerance, how, (rise, bound), scale * _weight_rounding(pair))


def _judged(
    worst: float,
    relative: float,
    tolerance: float,
    how: str,
    rises: tuple[float | None, float | None],
    rounded: float = 0.0,
) -> Function:
    """The comparison; `rises`: of the loss on old tokens, measured and at most, where `rounded` is what rounding the
    weights leaves in a logit.
    """
    rise, bound = rises
    is_bounded = rise is None or bound is None or rise <= bound + tolerance + rounded
    return Function(
        max_abs_logit_diff=worst,
        relative=relative,
        tolerance=tolerance,
        passed=relative <= tolerance and is_bounded,
        judged=how,
        loss_rise=rise,
        loss_rise_bound=bound,
    )


def _weight_rounding(pair: Pair) -> float:
    """One rounding of the coarsest stored weight."""
    stored = (pair.grown.checkpoint.tensors[link.grown.name].dtype for link in pair.links.values())
    return max(rounding(one) for one in stored if one.is_floating_point)


def _logits_of_both(
    models: Models, sample: torch.Tensor, known: Sequence[Sequence[torch.Tensor]]
) -> Iterator[torch.Tensor]:
    for model, there in zip((models.small, models.grown), known, strict=True):
        yield there[0] if there else _logits(model, sample)


def _logits(model: PreTrainedModel, sample: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return logits_of(model, sample).cpu()


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    return largest(expected.double() - found.double())


def _can_round(pair: Pair, weights: Mapping[str, WeightScale], relative: float) -> bool:
    """Whether rounding can be the cause: all weights are the small model's, and the logits are finite."""
    same = all(scale.roundings <= 1 for scale in weights.values())
    return same and math.isfinite(relative) and not pair.changes


def _stored_rounding(pair: Pair, weights: Mapping[str, WeightScale], dtype: torch.dtype) -> float:
    """The relative error of one rounding of the grown weights: in their stored dtype, if growth rounded any of them."""
    if all(scale.error <= EXACT for scale in weights.values()) and not restating_rounds(pair):
        return rounding(dtype)
    stored = {pair.grown.checkpoint.tensors[link.grown.name].dtype for link in pair.links.values()}
    return max(rounding(one) for one in (*stored, dtype) if one.is_floating_point)


def _bearable(stored: float) -> float:
    """The largest tolerance, for a function that is lost to rounding is lost all the same."""
    return max(limit for dtype, limit in BEARABLE.items() if rounding(dtype) <= stored)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
