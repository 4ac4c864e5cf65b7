"""Stored moments and steps, compared with what the measured factors of the gradients demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ckptgrow.formats.bitsandbytes_records import CODE_MAPS
from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.storage.tensors import is_lazy, num_elements, whole
from ckptgrow.verification.bases import in_bases, rows_of
from ckptgrow.verification.coordinates import growths_since
from ckptgrow.verification.gradients import GradientScale
from ckptgrow.verification.history import are_steps
from ckptgrow.verification.moment_factors import Factored
from ckptgrow.verification.moment_tensors import Case, Compared, Moment, Updates, left_by
from ckptgrow.verification.optimizers import FACTORS, POWERS, StepRule, step_rule
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.precision import coarsest
from ckptgrow.verification.scales import Scales
from ckptgrow.verification.tensor_blocks import Tensors
from ckptgrow.verification.threads import in_threads

NUMBERS = {"step": 0.0, "mu_product": 1e-6, "RMS": 1e-6}  # with the relative error that rounding to float32 leaves


@dataclass(frozen=True)
class MomentErrors:
    """What was found in all records.

    `errors`: the largest error of an entry of each stored tensor, relative to the entry that is expected, by
    "key of parameter"; `problems`: what else is wrong, in sentences; `tolerance`: the largest error that rounding to
    the coarsest stored dtype leaves. Errors of tensors in finer dtypes are scaled up, so that one tolerance fits all.
    """

    errors: Mapping[str, float]
    problems: list[str]
    tolerance: float


def moment_errors(pair: Pair, gradients: Mapping[str, GradientScale], scales: Scales) -> MomentErrors:
    """Compares every record of every optimizer."""
    jobs: list[Compared] = []
    problems: list[str] = []
    dtypes: set[torch.dtype] = set()
    limit = step_limit(pair)
    for small, grown in zip(pair.small.optimizers, pair.grown.optimizers, strict=False):
        old_groups, new_groups = small.group_of, grown.group_of
        for name in grown.names:
            link = pair.links[name]
            old, new = small.state.get(link.small.name), grown.state.get(name)
            rule = step_rule(old_groups[link.small.name].options, old or ())
            has_record = not (rule and rule.begins_without and link.has_no_moments)
            if old is None or new is None or not has_record or set(old) != set(new):
                expected = old if has_record else None
                if expected != new:
                    problems.append(f"the state of {name} holds {_keys(new)}, expected {_keys(expected)}")
                continue
            case = Case(
                name=name,
                link=link,
                gradient=gradients.get(name),
                scales=scales.of(name),
                old=old_groups[link.small.name].options,
                new=new_groups[name].options,
                limit=limit,
                has_group_step=small.has_group_steps,
                pair=pair,
            )
            dtypes |= {value.dtype for value in old.values() if is_lazy(value) and value.shape}
            problems += _record_problems(case, rule, old, new)
            jobs += _comparisons(case, rule, old, new)
    if len(pair.small.optimizers) != len(pair.grown.optimizers):
        problems.append(f"{len(pair.grown.optimizers)} optimizers, expected {len(pair.small.optimizers)}")
    errors = in_threads(lambda job: job.error(), jobs, lambda job: num_elements(job.new))  # over what each dtype leaves
    tolerance = left_by(coarsest(dtypes))
    found = {job.label: error * tolerance for job, error in zip(jobs, errors, strict=True)}
    return MomentErrors(found, problems, tolerance)


def _comparisons(
    case: Case, rule: StepRule | None, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Compared]:
    """The tensors of a record, those of two factors together."""
    powers = {**POWERS, **(rule.powers if rule else {})}
    for key in old:
        if key in powers and is_lazy(new[key]) and not (rule and key in rule.bases):
            tensors = Tensors.beside(case.pair, case.link, old[key], new[key])
            if rule and key in rule.updates:
                yield Updates(case=case, key=key, tensors=tensors)
            else:
                yield Moment(case=case, key=key, tensors=tensors, power=powers[key], times=_times(case, rule, key))
    for row, column in FACTORS:
        if row in old and column in old:
            yield Factored(case=case, keys=(row, column), old_record=old, new_record=new)
    if rule and rule.bases and all(key in old for key in rule.bases):
        yield from in_bases(case, rule.bases, old, new)
    yield from (rows_of(case, key, old[key], new[key]) for key in (rule.rows if rule else ()) if key in old)


def _record_problems(
    case: Case, rule: StepRule | None, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with a record besides its tensors."""
    yield from _number_problems(case, old, new)
    yield from _dtype_problems(case, old, new)
    yield from _reading_problems(case, rule, old, new)
    yield from (f"{key} of {case.name}: nothing is known of it" for key in sorted({*old} - _known(rule)))


def _known(rule: StepRule | None) -> set[str]:
    """The entries of which something is known, here or where weights are judged."""
    factors = {key for factors in FACTORS for key in factors}
    own = (*rule.weights, *rule.readings, *rule.bases, *rule.rows) if rule else ()
    return {*NUMBERS, *POWERS, *factors, *own, *CODE_MAPS}


def _reading_problems(
    case: Case, rule: StepRule | None, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with what the last step measured, and the next one measures anew."""
    for key in (*(rule.readings if rule else ()), *CODE_MAPS):
        before, after = _plain(old.get(key)), _plain(new.get(key))
        if before != after:
            yield f"{key} of {case.name} is {str(after)[:40]}, expected {str(before)[:40]} as before"


def _times(case: Case, rule: StepRule | None, key: str) -> float:
    """The ratio of the option, new over old, in whose units an entry is besides the gradient's."""
    option = rule.times.get(key) if rule else None
    if option is None or case.are_unscaled:
        return 1.0
    return float(case.new.get(option, 1.0)) / float(case.old.get(option, 1.0))


def step_limit(pair: Pair) -> int | None:
    """The earliest step to which a growth moved the schedule, by the history or by the grown checkpoint's own step.

    None where nothing moved it. `history` judges the history.
    """
    new = pair.grown.checkpoint.position.global_step
    steps = [record.get("step") for record in growths_since(pair.small, pair.grown)]
    set_to = [one[1] for one in steps if are_steps(one) and one[0] != one[1] and one[1] is not None]
    return min([*set_to, *([new] if pair.has_moved and new is not None else [])], default=None)


def _dtype_problems(case: Case, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    kinds = [(key, _kind(old[key]), _kind(new[key])) for key in old]
    return [f"{key} of {case.name} is {new}, expected {old}" for key, old, new in kinds if old != new]


def _kind(value: Any) -> str:
    return str(value.dtype) if is_lazy(value) else type(value).__name__


def _number_problems(case: Case, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record's numbers: the step, NAdam's product of momenta, Adafactor's size of the weight."""
    problems: list[str] = []
    for key in [key for key in NUMBERS if key in old]:
        before, after = _float(old[key]), _float(new[key])
        if key == "step":
            expected = case.step(before)
        elif key == "RMS":
            expected = 0.0 if case.link.has_no_moments else before * case.scales.size
        else:
            steps = _float(old["step"]), case.step(_float(old["step"]))
            expected = before if steps[0] == steps[1] else _momentum_product(case.old, int(steps[1]))
        if abs(after - expected) > NUMBERS[key] * abs(expected):
            problems.append(f"{key} of {case.name} is {after:g}, expected {expected:g}")
    return problems


def _momentum_product(options: Mapping[str, Any], steps: int) -> float:
    product = 1.0
    for step in range(1, steps + 1):
        product *= options["betas"][0] * (1 - 0.5 * 0.96 ** (step * options["momentum_decay"]))
    return product


def _plain(value: Any) -> Any:
    return whole(value).tolist() if is_lazy(value) else value


def _float(value: Any) -> float:
    return float(whole(value)) if is_lazy(value) else float(value)


def _keys(record: Mapping[str, Any] | None) -> str:
    return "nothing" if record is None else ", ".join(sorted(record))


def has_state(optimizers: tuple[OptimizerState, ...]) -> bool:
    """Whether any optimizer holds a record."""
    return any(state.state for state in optimizers)


def stored_dtypes(optimizers: tuple[OptimizerState, ...]) -> set[torch.dtype]:
    """The dtypes of all tensors in records, numbers left out."""
    records = [record for state in optimizers for record in state.state.values()]
    return {value.dtype for record in records for value in record.values() if is_lazy(value) and value.shape}
