"""Learning rates, epsilons and weight decays of the grown optimizer, judged by the measured scales.

Rule `mup` has the ratios of `optimizers`, so that updates scale as the weights do; `keep` leaves all options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.verification.optimizers import Ratio, kind_of
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.scales import Scales
from ckptgrow.verification.schedules import moved_rates

SAME = 1e-12  # relative, of numbers that growth leaves or a schedule computes again


@dataclass(frozen=True)
class Rates:
    """The rule that the groups follow (the closer one where neither fits), and where they do not."""

    rule: str
    problems: list[str]


def judge_rates(pair: Pair, scales: Scales) -> Rates:
    """Compares every parameter's options under both rules; where both fit, nothing that changes a rate was grown."""
    found = {rule: list(_problems(pair, scales, rule)) for rule in ("keep", "mup")}
    recorded = [entry.get("lr_rule") for entry in pair.grown.checkpoint.history[-1:]]
    fitting = [rule for rule, problems in found.items() if not problems]
    if recorded and recorded[0] in (fitting or found):
        rule = str(recorded[0])
    else:
        rule = fitting[0] if fitting else min(found, key=lambda one: len(found[one]))
    return Rates(rule, found[rule])


def _problems(pair: Pair, scales: Scales, rule: str) -> Iterator[str]:
    for number, (small, grown) in enumerate(zip(pair.small.optimizers, pair.grown.optimizers, strict=False)):
        old_groups, seen = small.group_of, set[str]()
        moved = moved_rates(pair, number) if pair.has_moved else None
        for index, group in enumerate(grown.groups):
            for name in group.names:
                if pair.links[name].small.name not in old_groups:
                    continue
                old = old_groups[pair.links[name].small.name].options
                kind, measured = kind_of(old), scales.of(name)
                ratios = kind.ratios(measured, old) if rule == "mup" and kind and kind.ratios else {}
                if moved is not None:
                    old, ratios = {**old, **moved[index]}, {**ratios, **dict.fromkeys(moved[index], 1.0)}
                limits = _Limits(kind.tolerance if kind else 0.0, measured.rounding)
                for option in {**old, **group.options}:
                    problem = _option_problem(option, old, group.options, ratios, limits)
                    if problem and f"{index} {option}" not in seen:
                        seen.add(f"{index} {option}")
                        yield f"{option} of group {index} ({name}) {problem}"


def _option_problem(
    option: str, old: Mapping[str, Any], new: Mapping[str, Any], ratios: Mapping[str, Ratio], limits: _Limits
) -> str | None:
    if option not in new:
        return f"is missing, expected {old[option]}"
    if option not in old:
        return f"is {new[option]}, expected no such option"
    return _difference(old[option], new[option], ratios.get(option, 1.0), limits)


@dataclass(frozen=True)
class _Limits:
    """How exact options are, relatively, and what an epsilon stands for that is None."""

    tolerance: float
    epsilon: float


def _difference(old: Any, new: Any, ratio: Ratio, limits: _Limits) -> str | None:
    """What is wrong with an option; nothing where weights or gradients of zero leave its ratio open."""
    old, new = _plain(old), _plain(new)
    if ratio is None:
        return None
    if isinstance(ratio, tuple) and isinstance(old, tuple | list) and isinstance(new, tuple | list):
        pairs = zip(old, new, strict=True)
        numbers = [limits.epsilon if one is None and other is not None else one for one, other in pairs]
        problems = [_difference(*entry, limits) for entry in zip(numbers, new, ratio, strict=True)]
        return next((problem for problem in problems if problem), None)
    if isinstance(ratio, tuple) or not _is_number(old) or not _is_number(new):
        return None if old == new or _are_close(old, new) else f"is {new}, expected {old}"
    expected = old * ratio
    limit = limits.tolerance * abs(expected) if ratio != 1 else SAME * abs(expected)
    return None if abs(new - expected) <= limit else f"is {new:g}, expected {expected:g}"


def _are_close(old: Any, new: Any) -> bool:
    """Whether two sequences hold the same; numbers as schedules compute them."""
    if not isinstance(old, list | tuple) or not isinstance(new, list | tuple) or len(old) != len(new):
        return False
    pairs = [(_plain(one), _plain(other)) for one, other in zip(old, new, strict=True)]
    return all(
        abs(one - other) <= SAME * abs(one) if _is_number(one) and _is_number(other) else one == other
        for one, other in pairs
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return float(whole(value)) if isinstance(value, LazyTensor) else value
