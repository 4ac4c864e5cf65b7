"""The schedules of ckptgrow's own trainer as factors of the peak rate, and the new warm-up after growth.

LambdaLR saves a callable object's fields, so the schedule's own settings travel in every checkpoint, and growth can
compute its rate at any step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ckptgrow.choices import ScheduleKind
from ckptgrow.errors import RequestError
from ckptgrow.ranges import check_rise

NEW_RISE = "rewarm_new"  # its place beside the record of growths
DECAY_SHARE = 0.2  # of the steps: the last phase of warm-up, stable, decay (Hu et al., arXiv 2404.06395)


@dataclass(kw_only=True)
class Schedule:
    """factor(step): linear warm-up from 0 over `warmup` steps, then the kind's course to `floor` at `total`.

    From `rewarm_start` on, the factor is multiplied by (step − rewarm_start + 1) / rewarm_steps until that is 1.
    """

    kind: ScheduleKind
    warmup: int
    total: int
    rewarm_start: int = 0
    rewarm_steps: int = 0
    floor: float = 0.0

    def copy(self) -> Schedule:
        """Another object with the same fields."""
        return replace(self)

    def __call__(self, step: int) -> float:
        """The factor at a step, from 0."""
        return self._course(step) * self._rewarming(step)

    def _course(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = max(0.0, (self.total - step) / max(1, self.total - self.warmup))
        if self.kind == "linear":
            return self._above_floor(left)
        if self.kind == "cosine":
            return self._above_floor(0.5 * (1 + math.cos(math.pi * (1 - left))))
        if self.kind == "wsd":
            return self._above_floor(min(1.0, max(0.0, (self.total - step) / max(1.0, DECAY_SHARE * self.total))))
        return 1.0

    def _above_floor(self, share: float) -> float:
        """A share of the way from the floor to the peak; with no floor the very share."""
        return share if self.floor == 0 else self.floor + (1 - self.floor) * share

    def _rewarming(self, step: int) -> float:
        if self.rewarm_steps <= 0 or step < self.rewarm_start:
            return 1.0
        return min(1.0, (step - self.rewarm_start + 1) / self.rewarm_steps)


@dataclass(frozen=True)
class NewRise:
    """The rate of entries that a growth added, in units of the run's: from 1 to `peak` over `steps`, and then `peak`.

    >>> [NewRise(1.5, 2, done).factor for done in range(3)]
    [1.25, 1.5, 1.5]
    """

    peak: float
    steps: int
    done: int = 0

    @classmethod
    def checked(cls, peak: float, steps: int) -> NewRise:
        """At its start; raises RequestError for what is none."""
        check_rise(peak, steps)
        return cls(peak, steps)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> NewRise:
        """As a checkpoint keeps it; raises RequestError where that is something else."""
        try:
            rise = cls.checked(float(state["peak"]), int(state["steps"]))
            return replace(rise, done=int(state["done"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{NEW_RISE} is {state}, expected peak, steps and done") from error

    @property
    def factor(self) -> float:
        """Of the next step."""
        return self.peak if self.done >= self.steps else 1 + (self.peak - 1) * (self.done + 1) / self.steps

    def after_a_step(self) -> NewRise:
        """One step further."""
        return replace(self, done=self.done + 1)

    def state(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return asdict(self)
