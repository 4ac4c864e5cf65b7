"""When a running training grows: at a step, or at the first validation at which the slope says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ckptgrow.choices import AfterGrowth
from ckptgrow.distributed import alone, processes
from ckptgrow.errors import RequestError
from ckptgrow.formats.known_formats import format_of
from ckptgrow.formats.target_names import SHARED
from ckptgrow.growth.request import StateRequest
from ckptgrow.live.live_growth import AskedGrowth, asked_growth
from ckptgrow.planning.operators import THRESHOLDS
from ckptgrow.planning.watching import seen


def _threshold(asked: AskedGrowth) -> float:
    """The slope at which an operator pays; raises RequestError for one of which it is not known."""
    if asked.name not in ("width", "depth"):
        raise RequestError(f"⟦slope auto⟧: is known of width and depth, expected ⟦at_step N⟧ for {asked.name}")
    return THRESHOLDS[asked.name]


@dataclass(kw_only=True)
class GrowthMoment:
    """A growth that is asked for, and whether its time has come: at `at_step`, or where the slope of the validations
    has risen past `tau`. `reached` is the step at which it came, `grown_at` that at which the model grew.
    """

    at_step: int | None
    tau: float | None
    steps: list[int] = field(default_factory=list[int])
    losses: list[float] = field(default_factory=list[float])
    reached: int | None = None
    grown_at: int | None = None

    @classmethod
    def checked(cls, at_step: int | None, slope: float | Literal["auto"] | None, asked: AskedGrowth) -> GrowthMoment:
        """From a user's options; raises RequestError unless one of the two is given."""
        if (at_step is None) == (slope is None):
            raise RequestError("the moment of growth: expected either ⟦at_step N⟧ or ⟦slope auto⟧ (or a number)")
        if at_step is not None and at_step < 1:
            raise RequestError(f"⟦at_step {at_step}⟧: expected an optimizer step from 1 on")
        return cls(at_step=at_step, tau=_threshold(asked) if slope == "auto" else slope)

    @property
    def is_due(self) -> bool:
        """Whether its time has come, and the model has not grown yet."""
        return self.reached is not None and self.grown_at is None

    def stepped(self, step: int) -> bool:
        """Whether this step's end is the moment; True only once."""
        return self._is_now(step, step == self.at_step)

    def validated(self, step: int, loss: float, since: int = 0) -> bool:
        """Takes the loss of a validation, in nats; whether this is the moment. Those up to the step `since`, at which
        another growth was, are of another model.
        """
        self.steps.append(step)
        self.losses.append(loss)
        known = [number for number, one in enumerate(self.steps) if one > since]
        steps, losses = [self.steps[number] for number in known], [self.losses[number] for number in known]
        found = None if self.tau is None else seen(steps, losses, self.tau)
        return self._is_now(step, found is not None and found.is_likely)

    def _is_now(self, step: int, is_time: bool) -> bool:
        if not is_time or self.reached is not None or self.grown_at is not None:
            return False
        self.reached = step
        return True


@dataclass(frozen=True)
class RunGrowth:
    """The growth of a run: the options of `ckptgrow.grow`, and whether the run then goes on or stops."""

    options: dict[str, Any]
    then: AfterGrowth
    asked: AskedGrowth
    request: StateRequest

    @classmethod
    def checked(cls, options: dict[str, Any], then: AfterGrowth) -> RunGrowth:
        """From a user's options; raises RequestError where they contradict each other."""
        request = options.get("request") or StateRequest()
        asked = asked_growth({name: one for name, one in options.items() if name != "request"})
        if then == "go on" and request.step != "keep":
            raise RequestError(
                f"⟦step {request.step}⟧: a trainer's own step stays while it runs, expected ⟦step keep⟧, or ⟦then stop⟧"
            )
        return cls(options, then, asked, request)

    def on_disk(self, small: Path, grown: Path, *, is_first: bool) -> None:
        """Grows a checkpoint that a trainer saved, by all processes together where they can share it, else by the
        first.
        """
        if format_of(small).kind in SHARED and processes().count > 1:
            self.asked(small, grown, self.request)
        elif is_first:
            with alone():
                self.asked(small, grown, self.request)
