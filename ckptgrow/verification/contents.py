"""Everything in a grown checkpoint besides weights and moments: derived from the small one and compared completely."""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import listing
from ckptgrow.verification.averages import average_problems
from ckptgrow.verification.beginnings import beginning_problems
from ckptgrow.verification.carried import carried_problems
from ckptgrow.verification.configs import config_problems
from ckptgrow.verification.coverage import coverage_problems
from ckptgrow.verification.history import Declared, history_problems
from ckptgrow.verification.new_rows import new_row_problems
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.rates import Rates, judge_rates
from ckptgrow.verification.scales import Scales
from ckptgrow.verification.schedules import moved_schedules, schedule_problems
from ckptgrow.verification.separation import separation_problems
from ckptgrow.verification.weights import WeightScale


def judge_contents(
    pair: Pair, weights: Mapping[str, WeightScale], measured: Scales, declared: Declared
) -> tuple[Rates | None, list[str]]:
    """The rule that the learning rates follow, and every problem: where, what was found and what was expected."""
    moved = moved_schedules(pair, declared.schedule)
    has_rates = bool(pair.small.optimizers and pair.grown.optimizers)
    rates = judge_rates(pair, measured, moved, declared) if has_rates else None
    return rates, [
        *(rates.problems if rates else []),
        *history_problems(pair, declared),
        *separation_problems(pair, weights, declared),
        *beginning_problems(pair, weights),
        *new_row_problems(pair),
        *config_problems(pair),
        *coverage_problems(pair, declared),
        *schedule_problems(pair, moved),
        *average_problems(pair, weights),
        *carried_problems(pair),
        *_dtype_problems(pair),
    ]


def left_out(declared: Declared) -> list[str]:
    """What the user left out, as the history says, in sentences; nothing of it is compared."""
    sentences: list[str] = []
    if "new" in declared.reset:
        sentences.append("moments of new entries are zero, as the history says (--reset new)")
    parts = declared.reset - {"new"}
    if parts:
        sentences.append(f"begun anew, as the history says (--reset): {listing(parts)}")
    if declared.dropped:
        sentences.append(f"left out, as the history says (--drop): {listing(declared.dropped)}")
    return sentences


def _dtype_problems(pair: Pair) -> list[str]:
    return [
        f"{name} is {new}, expected {old} as in the small checkpoint"
        for name, link in pair.links.items()
        if (new := pair.grown.checkpoint.tensors[name].dtype)
        != (old := pair.small.checkpoint.tensors[link.small.name].dtype)
    ]
