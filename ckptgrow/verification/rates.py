"""Learning rates, epsilons and weight decays of the grown optimizer, judged by the measured scales.

If a weight scales by c (mean over its input copies) and its gradient by g, an update must scale by c. Adam's update
does not depend on the gradient's scale: lr'/lr = c, and eps'/eps = g. SGD's is the gradient: lr'/lr = c/g. Decoupled
weight decay per step, lr · wd, stays. That is rule `mup`; `keep` leaves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.verification.gradients import GradientScale
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.weights import WeightScale

RELATIVE = 1e-9  # of float64 products; learning rates are no measurements
SCALED = ("lr", "initial_lr", "eps", "weight_decay")


@dataclass(frozen=True)
class Rates:
    """The rule that the groups follow (the closer one where neither fits), and where they do not."""

    rule: str
    problems: list[str]


def judge_rates(pair: Pair, weights: Mapping[str, WeightScale], gradients: Mapping[str, GradientScale]) -> Rates:
    """Compares every parameter's options under both rules."""
    found = {rule: list(_problems(pair, weights, gradients, rule)) for rule in ("keep", "mup")}
    if not found["keep"] or not found["mup"]:
        rule = "keep" if not found["keep"] else "mup"
    else:
        recorded = [entry.get("lr_rule") for entry in pair.grown.checkpoint.history[-1:]]
        rule = recorded[0] if recorded and recorded[0] in found else min(found, key=lambda one: len(found[one]))
    return Rates(str(rule), found[str(rule)] + _schedule_problems(pair))


def _problems(
    pair: Pair, weights: Mapping[str, WeightScale], gradients: Mapping[str, GradientScale], rule: str
) -> Iterator[str]:
    was_moved = pair.small.checkpoint.global_step != pair.grown.checkpoint.global_step
    old_of = {link.small.name: name for name, link in pair.links.items() if link.fresh is None}
    for small, grown in zip(pair.small.optimizers, pair.grown.optimizers, strict=False):
        old_groups, seen = small.group_of, set[str]()
        for index, group in enumerate(grown.groups):
            for name in group.names:
                link = pair.links[name]
                old = old_groups[link.small.name].options
                origin = old_of[link.small.name]  # a fresh layer's rates are those of the layer that it was made from
                ratios = {} if rule == "keep" else _mup(origin, old, weights, gradients, link.num_in_copies)
                for option, value in group.options.items():
                    if option == "lr" and was_moved:
                        continue
                    ratio = ratios.get(option, 1.0)
                    problem = None if ratio is None else _difference(option, old.get(option), value, ratio)
                    if problem and f"{index} {option}" not in seen:
                        seen.add(f"{index} {option}")
                        yield f"{option} of group {index} ({name}) {problem}"


def _mup(
    name: str,
    old: Mapping[str, Any],
    weights: Mapping[str, WeightScale],
    gradients: Mapping[str, GradientScale],
    num_in_copies: float,
) -> dict[str, float | None]:
    """The ratios that keep the trajectory; None for one that weights or gradients of zero leave open."""
    weight, factors = weights[name].factor, gradients[name].factors
    update = None if weight is None else weight / num_in_copies
    gradient = float(factors[0]) if factors is not None and factors.numel() == 1 else None
    if "betas" in old:
        return {**_rate(update), "eps": gradient}
    return _rate(None if update is None or gradient is None else update / gradient)


def _rate(ratio: float | None) -> dict[str, float | None]:
    return {"lr": ratio, "initial_lr": ratio, "weight_decay": None if ratio is None else 1.0 / ratio}


def _difference(option: str, old: Any, new: Any, ratio: float) -> str | None:
    old, new = (float(whole(value)) if isinstance(value, LazyTensor) else value for value in (old, new))
    if option not in SCALED or old is None or not isinstance(old, int | float):
        return None if old == new or _both_sequences_equal(old, new) else f"is {new}, expected {old}"
    expected = old * ratio
    return None if abs(new - expected) <= RELATIVE * abs(expected) else f"is {new:g}, expected {expected:g}"


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
        rates = [group.options.get("initial_lr") for group in groups]
        if isinstance(bases, list) and rates and None not in rates and list(bases) != rates:
            problems.append(f"base_lrs of scheduler {index} are {bases}, expected the groups' {rates}")
        if index < len(pair.small.checkpoint.schedulers) and not was_moved:
            old = pair.small.checkpoint.schedulers[index].get("last_epoch")
            if old != scheduler.get("last_epoch"):
                problems.append(f"last_epoch of scheduler {index} is {scheduler.get('last_epoch')}, expected {old}")
    return problems
