"""Stored moments and steps, compared with what the measured factors of the gradients demand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.storage.tensors import is_lazy, whole
from ckptgrow.verification.coordinates import growths_since
from ckptgrow.verification.gradients import GradientScale
from ckptgrow.verification.history import are_steps
from ckptgrow.verification.magnitude import largest, relative
from ckptgrow.verification.new_rows import moments_of_new_rows
from ckptgrow.verification.optimizers import FACTORS, KEPT_AXES, POWERS, Measured, step_rule
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import STORED_TOLERANCES, coarsest, rounding, smallest
from ckptgrow.verification.scales import Scales

FEW = 1.01  # roundings: an expected number in float64, rounded once to the stored dtype
FEW_FACTORS = 2.0  # times the roundings of a product of two stored factors over the mean of one
OF_FLOAT64 = 16.0  # roundings of float64, where numbers are stored in it
NUMBERS = {"step": 0.0, "mu_product": 1e-6, "RMS": 1e-6}  # with the relative error that rounding to float32 leaves
ROUNDING = 1e-12  # of sums in float64


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
    errors: dict[str, float] = {}  # over what each dtype leaves
    problems: list[str] = []
    dtypes: set[torch.dtype] = set()
    limit = _step_limit(pair)
    for small, grown in zip(pair.small.optimizers, pair.grown.optimizers, strict=False):
        old_groups, new_groups = small.group_of, grown.group_of
        for name in grown.names:
            link = pair.links[name]
            old, new = small.state.get(link.small.name), grown.state.get(name)
            if old is None or new is None or set(old) != set(new):
                if old != new:
                    problems.append(f"the state of {name} holds {_keys(new)}, expected {_keys(old)}")
                continue
            case = _Case(
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
            problems += _number_problems(case, old, new)
            problems += _dtype_problems(case, old, new)
            for key, error in _errors(case, old, new).items():
                errors[f"{key} of {name}"] = error
            unknown = set(old) - set(NUMBERS) - {key for pair_ in FACTORS for key in pair_} - set(POWERS)
            problems += [f"{key} of {name}: nothing is known of it" for key in sorted(unknown)]
    if len(pair.small.optimizers) != len(pair.grown.optimizers):
        problems.append(f"{len(pair.grown.optimizers)} optimizers, expected {len(pair.small.optimizers)}")
    tolerance = _left_by(coarsest(dtypes))
    return MomentErrors({key: error * tolerance for key, error in errors.items()}, problems, tolerance)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One parameter, and all that its record is judged by.

    `old` and `new`: the options of its group in both checkpoints; `limit`: the earliest step that a growth set;
    `has_group_step`: the file has one step for all parameters of a group, the new ones too.
    """

    name: str
    link: Link
    gradient: GradientScale | None
    scales: Measured
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    limit: int | None
    has_group_step: bool
    pair: Pair

    @property
    def num_growths(self) -> int:
        return self.pair.num_growths

    @property
    def are_unscaled(self) -> bool:
        return self.pair.are_moments_unscaled

    def step(self, old: float) -> float:
        if self.link.has_no_moments and not self.has_group_step:
            return 0.0
        return old if self.limit is None else min(old, self.limit)


def _errors(case: _Case, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, float]:
    """The error of every tensor in a record, in units of what rounding leaves; of two factors that of their product."""
    rule = step_rule(case.old, old)
    powers = {**POWERS, **(rule.powers if rule else {})}
    found: dict[str, float] = {}
    for key in old:
        if key in powers and is_lazy(new[key]):
            before, after = whole(old[key]).double(), whole(new[key]).double()
            if rule and key in rule.updates:
                found[key] = _of_updates(case, before, after) / STORED_TOLERANCES[new[key].dtype]
            else:
                found[key] = _roundings(case, (before, after), powers[key], key, new[key].dtype)
    for row, column in FACTORS:
        if row in old and column in old:
            before, after = (_factors(one, row, column) for one in (old, new))
            key = f"{row} and {column}"
            found[key] = max(_of_factors(case, before, after, new[row].dtype), _unequal_means(*after, new[row].dtype))
    return found


def _left_by(dtype: torch.dtype) -> float:
    """The largest relative error of an entry that was computed in float64 and rounded once."""
    return OF_FLOAT64 * rounding(dtype) if dtype == torch.float64 else FEW * rounding(dtype)


def _roundings(case: _Case, both: tuple[torch.Tensor, torch.Tensor], power: int, key: str, dtype: torch.dtype) -> float:
    """The largest error of an entry in units of what rounding it may leave, relative to the entry, however small."""
    old, found = both
    if case.link.has_no_moments or case.gradient is None:
        return largest(found) / STORED_TOLERANCES[dtype]
    if case.pair.row_record is not None and case.link.is_padded:
        new_rows = moments_of_new_rows(case.pair, case.link, old, power, key)
        if not _are_as(case, found, new_rows, dtype):
            return math.inf
    elif case.link.is_padded and power and not _is_young(case, found, power, dtype):
        return math.inf
    expected = _expected(case, old, power)
    allowed = case.num_growths * (_left_by(dtype) * expected.abs() + FEW / 2 * smallest(dtype))
    return largest((case.link.copied_part(found) - expected) / allowed)


def _expected(case: _Case, old: torch.Tensor, power: int) -> torch.Tensor:
    """The expected entries of the grown record: the small record's, times a power of the gradient's factor."""
    small, scale = case.link.without_anew(case.link.spread(case.link.left_part(old))), case.gradient
    if power == 0 or scale is None or case.are_unscaled:
        return small
    expected = scale.at(case.link) ** power * small
    return case.link.squares(expected) if power == 2 else expected


def _are_as(case: _Case, found: torch.Tensor, expected: torch.Tensor | None, dtype: torch.dtype) -> bool:
    """Whether new rows hold what is expected of them, zeros for None."""
    growth = case.link.grown.layout.axes[0].growth(case.pair.growths)
    new_rows = found[torch.from_numpy(growth.is_fresh)]
    if expected is None:
        return not bool(new_rows.any())
    left = FEW / 2 * smallest(dtype) + (_left_by(dtype) + ROUNDING) * expected.abs() + ROUNDING * largest(expected)
    return bool(((new_rows - expected).abs() <= left).all())


def _is_young(case: _Case, found: torch.Tensor, power: int, dtype: torch.dtype) -> bool:
    """Whether entries that copy nothing have no moments yet: they are zero, or a mean of old ones where recorded so."""
    least = smallest(dtype)
    entries, copied = float(found.abs().sum()), case.link.copied_part(found)
    rest = entries - float(copied.abs().sum())
    if power == 2 and case.pair.fresh_moments == "mean":
        expected = (found.numel() - copied.numel()) * float(copied.mean())
        left = 2 * _left_by(dtype) * expected + least * found.numel()  # what was averaged, and alike all that it is
        return float(found.min()) >= float(copied.min()) - least and abs(rest - expected) <= left
    return rest <= ROUNDING * entries


def _of_updates(case: _Case, old: torch.Tensor, found: torch.Tensor) -> float:
    """The relative error of an average of updates: it scales as the learning rate, and as the weight if that is its
    unit.
    """
    if case.link.has_no_moments:
        return largest(found)
    key = "initial_lr" if case.old.get("initial_lr") else "lr"  # a schedule that was moved moves the other
    before, after = case.old.get(key), case.new.get(key)
    rate = after / before if before and after else 1.0
    size = case.scales.size if case.old.get("scale_parameter") else 1.0
    factor = 1.0 if case.are_unscaled else rate * size
    spread = case.link.spread(case.link.left_part(old))
    return relative(case.link.copied_part(found), factor * case.link.without_anew(spread))


def _product(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The second moment that Adafactor's factors stand for."""
    mean = rows.mean(-2, keepdim=True)
    return rows @ columns / torch.where(mean == 0, 1.0, mean)


def _of_factors(case: _Case, old: tuple[torch.Tensor, ...], new: tuple[torch.Tensor, ...], dtype: torch.dtype) -> float:
    """The largest error of an entry of two factors' product, in units of what rounding the factors may leave."""
    found = _product(*new)
    if case.link.has_no_moments or case.gradient is None:
        return largest(found) / STORED_TOLERANCES[dtype]
    if case.pair.row_record is not None:
        return _of_new_factors(case, old, new, dtype)
    if case.link.is_padded and not _is_young(case, found, 2, dtype):
        return math.inf
    expected = _expected(case, _product(*old), 2)
    left = case.link.copied_part(_left(new[0], new[1], found, dtype))
    allowed = FEW_FACTORS * case.num_growths * left + smallest(torch.float64)
    return largest((case.link.copied_part(found) - expected) / allowed)


def _of_new_factors(
    case: _Case, old: tuple[torch.Tensor, ...], new: tuple[torch.Tensor, ...], dtype: torch.dtype
) -> float:
    """The same where rows are new: their own factors are judged, and the old entries' product."""
    new_rows = moments_of_new_rows(case.pair, case.link, old[0], 2, "row") if case.link.is_padded else None
    if case.link.is_padded and not _are_as(case, new[0], new_rows, dtype):
        return math.inf
    expected = _expected(case, _product(*old), 2)
    left = case.link.copied_part(_left(new[0], new[1], _product(*new), dtype))
    allowed = FEW_FACTORS * case.num_growths * left + smallest(torch.float64)
    return largest((case.link.copied_part(_product(*new)) - expected) / allowed)


def _left(rows: torch.Tensor, columns: torch.Tensor, product: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The largest error that rounding leaves in each entry of the product rows · columns / mean.

    Each of the three is rounded once, relative to itself or, where it is nearly zero, to the dtype's smallest number.
    """
    least, mean = smallest(dtype), rows.mean(-2, keepdim=True)
    mean = torch.where(mean == 0, least, mean)
    return 3 * _left_by(dtype) * product + least * (rows + columns + product + least) / mean


def _unequal_means(rows: torch.Tensor, columns: torch.Tensor, dtype: torch.dtype) -> float:
    """How far the means of both factors differ, in units of what rounding leaves.

    Both are means of the same squares. Their product alone would not show a factor that was moved between them.
    """
    of_rows, of_columns = rows.mean(-2), columns.mean(-1)
    return largest(of_rows - of_columns) / (STORED_TOLERANCES[dtype] * largest(of_columns) + smallest(dtype))


def _factors(record: Mapping[str, Any], row: str, column: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Both factors in float64, each with the axis that it averages over, of size 1; transformers' factors drop it."""
    rows, columns = whole(record[row]).double(), whole(record[column]).double()
    return (rows, columns) if row in KEPT_AXES else (rows.unsqueeze(-1), columns.unsqueeze(-2))


def _step_limit(pair: Pair) -> int | None:
    """The earliest step to which a growth moved the schedule, by the history or by the grown checkpoint's own step.

    None where nothing moved it. `history` judges the history.
    """
    new = pair.grown.checkpoint.position.global_step
    steps = [record.get("step") for record in growths_since(pair.small, pair.grown)]
    set_to = [one[1] for one in steps if are_steps(one) and one[0] != one[1] and one[1] is not None]
    return min([*set_to, *([new] if pair.has_moved and new is not None else [])], default=None)


def _dtype_problems(case: _Case, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    kinds = [(key, _kind(old[key]), _kind(new[key])) for key in old]
    return [f"{key} of {case.name} is {new}, expected {old}" for key, old, new in kinds if old != new]


def _kind(value: Any) -> str:
    return str(value.dtype) if is_lazy(value) else type(value).__name__


def _number_problems(case: _Case, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
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
