"""Every option of every group of the grown optimizers, judged by the measured scales.

Under rule `mup` options change by the ratios of `optimizers`, so that updates scale as the weights do; under rule
`keep` none changes. The rule is found from the numbers, and it must be the recorded one. Options that a schedule sets
are judged at the grown checkpoint's step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ckptgrow.storage.tensors import InMemory, is_lazy, whole
from ckptgrow.verification.history import Declared
from ckptgrow.verification.moments import step_limit
from ckptgrow.verification.optimizers import Measured, Ratio, StepRule, step_rule
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.replay import SET
from ckptgrow.verification.scales import Scales
from ckptgrow.verification.schedules import IN_FLOAT32, ROUNDING, Moved
from ckptgrow.verification.trees import differences, same_value, text

Shares = Mapping[str, float]  # by rule, the power of the measured ratios that options have
RULES: Shares = {"keep": 0.0, "mup": 1.0}
MIXED = "keep and mup"
DECAY, DECAY_POWERS = "weight_decay", {"trajectory": 1.0, "sqrt": 0.5, "keep": 0.0}  # of the rates' inverse


@dataclass(frozen=True)
class Rates:
    """The rule that the groups follow, or the closest one where none fits, and each option that does not follow it."""

    rule: str
    problems: list[str]


def judge_rates(pair: Pair, scales: Scales, moved: Moved, declared: Declared) -> Rates:
    """Compares every parameter's options under both rules, and under the mixture that a chain of growths records."""
    share = declared.mup_share
    shares = {**RULES, **({MIXED: share} if share is not None else {})}
    power = DECAY_POWERS.get(declared.decay_rule, 1.0)
    found = {rule: list(_problems(pair, scales, moved, (share, share * power))) for rule, share in shares.items()}
    fitting = [rule for rule, problems in found.items() if not problems]
    recorded = {str(record.get("lr_rule")) for record in declared.rated}
    named = MIXED if len(recorded) > 1 else next(iter(recorded), "keep")
    if fitting:
        rule = named if named in fitting else fitting[0]
        return Rates(rule, _contradictions(rule, named, fitting))
    rule = named if named in found else min(found, key=lambda one: len(found[one]))
    return Rates(rule, found[rule])


def _contradictions(rule: str, named: str, fitting: list[str]) -> list[str]:
    if named in fitting or named == MIXED:
        return []
    return [f"the history says lr rule {named}, but the groups' options follow {rule}"]


def _problems(pair: Pair, scales: Scales, moved: Moved, powers: tuple[float, float]) -> Iterator[str]:
    """What is wrong where options have these powers of the measured ratios, the second one for weight decay."""
    for place, (small, grown) in enumerate(zip(pair.small.optimizers, pair.grown.optimizers, strict=False)):
        old_group = {name: index for index, group in enumerate(small.groups) for name in group.names}
        seen: set[str] = set()
        for index, group in enumerate(grown.groups):
            for name in group.names:
                source = old_group.get(pair.links[name].small.name)
                if source is None:
                    continue  # no group of the small one holds it, which the coverage tells
                old = moved.options_of(place, source, small.groups[source].options)
                record = small.state.get(pair.links[name].small.name, {})
                is_moved = moved.is_moved and place in moved.options
                rule = step_rule(old, record)
                judged = _judged(scales.of(name), rule, old, powers)
                expected = _at_step(old, rule, pair)
                for option, problem in _of_parameter(expected, group.options, judged, is_moved):
                    if f"{index} {option}" not in seen:
                        seen.add(f"{index} {option}")
                        yield f"{option} of group {index} ({name}) {problem}"


def _at_step(old: Mapping[str, Any], rule: StepRule | None, pair: Pair) -> Mapping[str, Any]:
    """The options with the group's own count of steps, where it has one, as at the grown checkpoint's step."""
    limit = step_limit(pair)
    if rule is None or rule.clock is None or rule.clock not in old or limit is None:
        return old
    taken = old[rule.clock]
    if is_lazy(taken):
        return {**old, rule.clock: InMemory(whole(taken).clamp(max=limit))}
    return {**old, rule.clock: min(taken, limit)}


@dataclass(frozen=True)
class _Judged:
    """What a parameter's options must be: their ratios, new over old, to a relative tolerance.

    `epsilon`: the number that an eps of None stands for.
    """

    ratios: Mapping[str, Ratio]
    tolerance: float
    epsilon: float


def _judged(measured: Measured, rule: StepRule | None, old: Mapping[str, Any], powers: tuple[float, float]) -> _Judged:
    share, of_decay = powers
    ratios = rule.ratios(measured, old) if share and rule and rule.ratios else {}
    raised = {option: _power(ratio, of_decay if option == DECAY else share) for option, ratio in ratios.items()}
    return _Judged(raised, rule.tolerance if rule else 0.0, measured.rounding)


def _power(ratio: Ratio, share: float) -> Ratio:
    if isinstance(ratio, tuple):
        return tuple(None if one is None else one**share for one in ratio)
    return None if ratio is None else ratio**share


def _of_parameter(
    old: Mapping[str, Any], new: Mapping[str, Any], judged: _Judged, is_moved: bool
) -> Iterator[tuple[str, str]]:
    """The options of a parameter's group that are wrong, each with the end of a sentence that says how."""
    for option, value in old.items():
        if option not in new:
            yield option, f"is missing, expected {text(_plain(value))}"
            continue
        limits = judged
        if is_moved and option in SET:  # run again, and rounded where it is a tensor
            limits = _Judged(judged.ratios, max(judged.tolerance, IN_FLOAT32 if is_lazy(value) else ROUNDING), 0.0)
        problem = _difference(value, new[option], judged.ratios.get(option, 1.0), limits, is_moved and option in SET)
        if problem:
            yield option, problem
    for option in new.keys() - old.keys():
        yield option, f"is {text(_plain(new[option]))}, expected none"


def _difference(old: Any, new: Any, ratio: Ratio, limits: _Judged, is_moved: bool) -> str | None:
    """What is wrong with an option, as the end of a sentence; None where it is right or its ratio is not known."""
    if is_lazy(old) != is_lazy(new) and old is not None:
        return f"is {text(new)}, expected {text(old)}"
    old, new = _plain(old), _plain(new)
    if ratio is None:
        return None
    if isinstance(ratio, tuple) and isinstance(old, tuple | list) and isinstance(new, tuple | list):
        if len(old) != len(new):
            return f"is {new}, expected {len(old)} numbers"
        pairs = zip(old, new, strict=True)
        numbers = [limits.epsilon if one is None and other is not None else one for one, other in pairs]
        problems = [_difference(*entry, limits, is_moved) for entry in zip(numbers, new, ratio, strict=True)]
        return next((problem for problem in problems if problem), None)
    if isinstance(ratio, tuple) or ratio == 1 or not _is_number(old) or not _is_number(new):
        return None if _is_same(old, new, limits.tolerance if is_moved else 0.0) else f"is {new}, expected {old}"
    expected = old * ratio
    return None if abs(new - expected) <= limits.tolerance * abs(expected) else f"is {new:g}, expected {expected:g}"


def _is_same(old: Any, new: Any, tolerance: float) -> bool:
    """Whether two options are equal: formats turn tuples into lists, and ratios turn 0 into 0.0, so these are equal."""
    if old is new:  # None, True or False, as most options are
        return True
    if _is_number(old) and _is_number(new):
        return same_value(float(new), float(old), tolerance)
    old, new = (list(one) if isinstance(one, tuple) else one for one in (old, new))
    return not any(differences(new, old, ("option",), tolerance))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_plain(one) for one in value)
    if is_lazy(value):
        tensor = whole(value)
        return float(tensor) if not tensor.shape else tensor.tolist()
    return value
