"""Whether both models compute the same logits on the same tokens, up to what rounding can change.

float64, float32    They may differ by a few hundred roundings of the largest logit. A deep model with noise multiplies
                    rounding errors: there they may differ by a multiple of what one rounding of each weight changes in
                    the grown model's own logits, but by no more than `BEARABLE`: beyond that the function is lost.
bfloat16            The grown model's error may be twice the small model's own, both against the small model in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from ckptgrow.verification.kept_tokens import KeptTokens
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.new_rows import bound_of
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.precision import TOLERANCES, rounding
from ckptgrow.verification.report import Function
from ckptgrow.verification.samples import all_logits
from ckptgrow.verification.weights import WeightScale

OWN_ERRORS = 2.0  # times the small model's own error in bfloat16
RESPONSES = 30.0  # times the change that one rounding makes: draws differ, and so do sums in another order
EXACT = 1e-12  # of the largest value: weights that growth has not rounded
BEARABLE = {torch.float64: 1e-2, torch.float16: 0.5}  # of the largest logit, from a rounding as coarse as this on
SEED = 0
Logits = Sequence[torch.Tensor]


def compared(
    pair: Pair,
    models: tuple[PreTrainedModel, PreTrainedModel],
    samples: Sequence[torch.Tensor],
    weights: Mapping[str, WeightScale],
    exact: PreTrainedModel | None,
) -> Function:
    """Compares the logits of both models on `samples`.

    `models`: the small and the grown one; `exact`: the small one in float32, where the models are in bfloat16. Where
    the fixed tolerance is not met, the grown model is run once more with weights that are perturbed by one rounding.
    """
    small, grown = (all_logits(model, samples) for model in models)
    kept, bound = KeptTokens.of(pair), bound_of(pair)
    rise = None if kept is None else kept.loss_rise(models, samples)
    reference = small if exact is None else all_logits(exact, samples)
    scale = max(largest(one.double()) for one in reference)
    worst = _difference(reference, grown)
    relative = worst / scale if scale > 0 else worst
    dtype = models[0].dtype
    if exact is not None:
        own = _difference(reference, small) / scale if scale > 0 else 0.0
        tolerance = max(OWN_ERRORS * own, rounding(dtype))
        how = f"by the small model's own error in {_name(dtype)}, {own:.1e} of the largest logit"
        return _judged(worst, relative, tolerance, how, (rise, bound))
    tolerance, how = TOLERANCES[dtype], f"by a few hundred roundings of {_name(dtype)}"
    if relative > tolerance and _can_round(pair, weights, relative):
        stored = _stored_rounding(pair, weights, dtype)
        response = _response(models[1], samples[:1], grown[:1], stored) / scale
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


def _difference(expected: Logits, found: Logits) -> float:
    return max(largest(one.double() - other.double()) for one, other in zip(expected, found, strict=True))


def _can_round(pair: Pair, weights: Mapping[str, WeightScale], relative: float) -> bool:
    """Whether rounding can be the cause: all weights are the small model's, and the logits are finite."""
    same = all(scale.roundings <= 1 for scale in weights.values())
    return same and math.isfinite(relative) and not pair.changes


def _stored_rounding(pair: Pair, weights: Mapping[str, WeightScale], dtype: torch.dtype) -> float:
    """The relative error of one rounding of the grown weights: in their stored dtype, if growth rounded any of them."""
    if all(scale.error <= EXACT for scale in weights.values()):
        return rounding(dtype)
    stored = {pair.grown.checkpoint.tensors[link.grown.name].dtype for link in pair.links.values()}
    return max(rounding(one) for one in (*stored, dtype) if one.is_floating_point)


def _bearable(stored: float) -> float:
    """The largest tolerance, for a function that is lost to rounding is lost all the same."""
    return max(limit for dtype, limit in BEARABLE.items() if rounding(dtype) <= stored)


def _response(model: PreTrainedModel, samples: Sequence[torch.Tensor], logits: Logits, size: float) -> float:
    """The largest change of a logit when every weight is changed at random by up to one rounding, `size`."""
    generator = torch.Generator().manual_seed(SEED)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            draws = torch.rand(parameter.shape, generator=generator, dtype=torch.float32).to(parameter)
            parameter.mul_(1 + size * (2 * draws - 1))
        response = _difference(logits, all_logits(model, samples))
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return response


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
