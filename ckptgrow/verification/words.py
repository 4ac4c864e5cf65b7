"""The sentences in which a report says what it found, and what to do."""

from __future__ import annotations

from ckptgrow.verification.gradients import INEXACT
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.report import VerifyReport


def sentences(report: VerifyReport, pair: Pair) -> list[str]:
    """Everything that a user should know: the reasons for a failure first, then remarks."""
    parts = (_structure(report), _function(report, pair), _moments(report), _trajectory(report), _asymmetry(report))
    return [*(sentence for part in parts for sentence in part), *_padding(report, pair)]


def _padding(report: VerifyReport, pair: Pair) -> list[str]:
    moments = report.moments
    padding = pair.grown.family.padding
    if moments is None or not pair.is_padded or padding is None or padding.norm != "layer":
        return []
    error = moments.gradient_worst_relative_error
    if error is not None and error <= INEXACT:
        return []
    measured = "" if error is None else f" by up to {error:.0%} ({moments.gradient_worst_parameter})"
    return [
        "moments of what writes the residual stream are approximate: through LayerNorm, gradients of old entries "
        f"differ{measured}"
    ]


def _structure(report: VerifyReport) -> list[str]:
    structure = report.structure
    found = list(structure.problems)
    if structure.has_wrong_weights:
        found.insert(
            0,
            f"{structure.worst_parameter}: the weight differs from the small one's by "
            f"{structure.worst_relative_error:.1e} of its largest value, more than storing it rounds",
        )
    return found


def _function(report: VerifyReport, pair: Pair) -> list[str]:
    function = report.function
    if function is None:
        return []
    rise, bound = function.loss_rise, function.loss_rise_bound
    limit = "" if bound is None else f", at most {bound:.3g} by the number of new ones"
    told = [] if rise is None else [f"the loss on old tokens rises by {rise:.3g} nats for the new ones{limit}"]
    if function.passed and pair.row_record is not None and function.max_abs_logit_diff == 0:
        return ["the logits of old tokens at old positions are equal to the bit", *told]
    if function.passed:
        return told
    if function.relative <= function.tolerance:
        return [*told, "which is more than new rows that are means of the old ones can add"]
    found = [
        f"the function changed: logits differ by {function.relative:.1e} of the largest, expected at most "
        f"{function.tolerance:.0e}, judged {function.judged}"
    ]
    if "copy" in pair.changes:
        found.append("layers were stacked (--new copy), which does not preserve the function")
    if pair.is_stretched:
        found.append("positions were stretched (--new interpolate), which does not preserve the function")
    for kind, done in (("ode", "were divided among copies"), ("random", "are drawn")):
        if kind in pair.changes:
            found.append(f"layers {done} (--new {kind}), which does not preserve the function")
    return found


def _moments(report: VerifyReport) -> list[str]:
    moments = report.moments
    if moments is None:
        return ["there is no optimizer state to judge"]
    found = list(moments.problems)
    if moments.worst_relative_error > moments.tolerance:
        found.insert(
            0,
            f"{moments.worst_parameter}: differs from what the gradients demand by {moments.worst_relative_error:.1e}, "
            f"expected at most {moments.tolerance:.0e}",
        )
    return found


def _trajectory(report: VerifyReport) -> list[str]:
    trajectory = report.trajectory
    if trajectory is None:
        return []
    if not trajectory.judged:
        return [f"the losses over {trajectory.steps} steps are reported, not judged: {trajectory.why}"]
    if trajectory.passed:
        return []
    return [
        f"the losses part by {trajectory.max_abs_loss_diff:.1e} within {trajectory.steps} steps, expected at most "
        f"{trajectory.tolerance:.0e}"
    ]


def _asymmetry(report: VerifyReport) -> list[str]:
    if report.asymmetry is None or not report.asymmetry.trapped:
        return []
    return [
        "trapped: the copies are equal and get equal gradients, and the config has no dropout, so they stay equal for "
        "ever and the grown model computes nothing the small one could not; grow with --separate split, or train with "
        "dropout"
    ]
