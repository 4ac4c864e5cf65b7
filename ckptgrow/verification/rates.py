"""Learning rates, epsilons and weight decays of the grown optimizer, judged by the measured scales.

Rule `mup` has the ratios of `optimizers`, so that updates scale as the weights do; `keep` leaves all options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.verification.optimizers import Ratio, kind_of
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.scales import Scales

MOVED = ("lr", "betas", "momentum")  # what a schedule sets


@dataclass(frozen=True)
class Rates:
    """The rule that the groups follow (the closer one where neither fits), and where they do not."""

    rule: str
    problems: list[str]


def judge_rates(pair: Pair, scales: Scales) -> Rates:
    """Compares every parameter's options under both rules."""
    found = {rule: list(_problems(pair, scales, rule)) for rule in ("keep", "mup")}
    if not found["keep"] or not found["mup"]:
        rule = "keep" if not found["keep"] else "mup"
    else:
        recorded = [entry.get("lr_rule") for entry in pair.grown.checkpoint.history[-1:]]
        rule = recorded[0] if recorded and recorded[0] in found else min(found, key=lambda one: len(found[one]))
    return Rates(str(rule), found[str(rule)] + _schedule_problems(pair))


def _problems(pair: Pair, scales: Scales, rule: str) -> Iterator[str]:
    was_moved = pair.small.checkpoint.global_step != pair.grown.checkpoint.global_step
    for small, grown in zip(pair.small.optimizers, pair.grown.optimizers, strict=False):
        old_groups, seen = small.group_of, set[str]()
        for index, group in enumerate(grown.groups):
            for name in group.names:
                old = old_groups[pair.links[name].small.name].options
                kind, measured = kind_of(old), scales.of(name)
                ratios = kind.ratios(measured, old) if rule == "mup" and kind and kind.ratios else {}
                limits = _Limits(kind.tolerance if kind else 0.0, measured.rounding)
                for option, value in group.options.items():
                    if option in MOVED and was_moved:
                        continue
                    problem = _difference(old.get(option), value, ratios.get(option, 1.0), limits)
                    if problem and f"{index} {option}" not in seen:
                        seen.add(f"{index} {option}")
                        yield f"{option} of group {index} ({name}) {problem}"


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
    if isinstance(ratio, tuple) or not _is_number(old) or not _is_number(new) or ratio == 1:
        return None if old == new or _both_sequences_equal(old, new) else f"is {new}, expected {old}"
    expected = old * ratio
    return None if abs(new - expected) <= limits.tolerance * abs(expected) else f"is {new:g}, expected {expected:g}"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _both_sequences_equal(old: Any, new: Any) -> bool:
    return isinstance(old, list | tuple) and isinstance(new, list | tuple) and list(old) == list(new)


def _schedule_problems(pair: Pair) -> list[str]:
    """Each scheduler's base learning rates are those of the groups, and its clock is the small one's or was moved."""
    problems: list[str] = []
    state = pair.grown.checkpoint
    was_moved = pair.small.checkpoint.global_step != state.global_step
    for index, scheduler in enumerate(state.schedulers):
        bases = scheduler.get("base_lrs")
        groups = pair.grown.optimizers[index].groups if len(state.schedulers) == len(pair.grown.optimizers) else ()
        rates = [_plain(group.options.get("initial_lr")) for group in groups]
        found = [_plain(base) for base in bases] if isinstance(bases, list) else rates
        if rates and None not in rates and found != rates:
            problems.append(f"base_lrs of scheduler {index} are {found}, expected the groups' {rates}")
        if index < len(pair.small.checkpoint.schedulers) and not was_moved:
            old = pair.small.checkpoint.schedulers[index].get("last_epoch")
            if old != scheduler.get("last_epoch"):
                problems.append(f"last_epoch of scheduler {index} is {scheduler.get('last_epoch')}, expected {old}")
    return problems


def _plain(value: Any) -> Any:
    return float(whole(value)) if isinstance(value, LazyTensor) else value
