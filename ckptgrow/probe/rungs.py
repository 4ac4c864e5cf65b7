"""How long candidates train: the rungs of successive halving, and what they cost.

At every rung each candidate that is left has trained four times as long as at the one before, and the better half goes
on (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
arXiv 1502.07943, algorithm 1, with η = 4 in length).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptgrow.errors import RequestError
from ckptgrow.probe.limits import read_budget
from ckptgrow.recipes.model_sizes import ModelSize

LONGER = 4  # times, from rung to rung
MOST_RUNGS = 3
SHORTEST, FIRST = 16, 64  # steps: of a first rung at least, and of one that is no longer than that while rungs lack
NUM_CONTROLS = 2  # the small model continued, and scratch; to the end
SPENT_SHARE = 0.02  # of what was spent so far: the default


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a probe is charged for: `runs` of candidates (a seed each), FLOPs of a step and of all held-out sequences,
    both of the grown model.
    """

    runs: int
    step: float
    held_out: float

    @classmethod
    def by_size(cls, size: ModelSize, *, runs: int, batch: int, sequences: int, seqlen: int) -> Cost:
        """Of a grown model's size: `batch` sequences a step, `sequences` held out, all of `seqlen` tokens."""
        held_out = size.flops(sequences * seqlen) / 3  # forward alone
        return cls(runs=runs, step=size.flops(batch * seqlen), held_out=held_out)

    def of(self, rungs: Sequence[int]) -> float:
        """FLOPs of successive halving over rungs of so many steps, controls included."""
        total, before, left = 0.0, 0, float(self.runs)
        for steps in rungs:
            total += (left + NUM_CONTROLS) * (self.step * (steps - before) + self.held_out * len(marks_of(steps)))
            before, left = steps, half(left)
        return total


def half(num: float) -> int:
    """How many go on of so many."""
    return max(1, -(-int(num) // 2))


def groups_of(rung: int) -> tuple[tuple[int, ...], ...]:
    """The steps at which held-out losses are measured: four each towards half of a rung and all of it, from three
    sixteenths before on; fewer where these are not so many steps.

    >>> groups_of(256)
    ((104, 112, 120, 128), (208, 224, 240, 256))
    """
    ends = sorted({max(1, rung // 2), rung})
    return tuple(tuple(sorted({max(1, round(end * part / 16)) for part in (13, 14, 15, 16)})) for end in ends)


def marks_of(rung: int) -> tuple[int, ...]:
    """All of these steps."""
    return tuple(sorted({mark for group in groups_of(rung) for mark in group}))


def rungs_within(budget: float, cost: Cost) -> tuple[int, ...]:
    """As many rungs as the budget in FLOPs pays, as long as it pays: more rungs once the first has 64 steps.

    Raises RequestError where it pays less than 16 steps of every candidate.
    """
    found: tuple[int, ...] | None = None
    for number in range(1, MOST_RUNGS + 1):
        first = _longest(budget, cost, number)
        if first >= (SHORTEST if number == 1 else FIRST):
            found = tuple(first * LONGER**rung for rung in range(number))
    if found is None:
        least = cost.of((SHORTEST,))
        raise RequestError(
            f"⟦budget⟧: {budget:.3g} FLOPs pay {_longest(budget, cost, 1)} steps of {cost.runs} candidates, expected "
            f"at least {SHORTEST}, which are {least:.3g}; give more, fewer ⟦candidates⟧, or ⟦steps⟧"
        )
    return found


def _longest(budget: float, cost: Cost, number: int) -> int:
    """The longest first rung of so many that the budget pays; 0 where it pays none."""
    low, high = 0, 1
    while cost.of([high * LONGER**rung for rung in range(number)]) <= budget:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        paid = cost.of([middle * LONGER**rung for rung in range(number)]) <= budget
        low, high = (middle, high) if paid else (low, middle)
    return low


def budget_of(text: str, spent: float | None) -> float:
    """FLOPs, of a number of them or a share as `2%` of those that were spent so far; raises RequestError for others."""
    value, is_share = read_budget(text)
    if not is_share:
        return value
    if spent is None:
        raise RequestError(
            f"⟦budget {text}⟧: the checkpoint does not say how many tokens it has seen; give FLOPs, or ⟦steps⟧"
        )
    return spent * value / 100
