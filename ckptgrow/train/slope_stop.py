"""Ends a run where its learning curve says that growing pays, the slope of its validations having risen past τ, or
where a validation is as low as was asked for.

The rule is that of `ckptgrow plan watch`, and the slope now must be above τ too, more likely than not. It looks at each
validation, in every process, at what the run itself has validated; the evaluations are in its checkpoints, so that an
interrupted run decides as one that nothing interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning

from ckptgrow.planning.watching import seen

STATE = "SlopeStop"  # Lightning's key of a callback's state: its class's name


@dataclass(frozen=True)
class Ends:
    """At which slope, and at which loss in nats, a run ends early; None for never."""

    slope: float | None = None
    loss: float | None = None


class SlopeStop(lightning.Callback):
    """Stops at the first validation at which the slope d log L / d log C has risen past `threshold`, or whose loss is
    at most `target` nats; without either it only keeps what was validated, for a run that goes on with one.

    Evaluations of before a growth, which a grown checkpoint still holds, are of another model: `num_growths` tells
    them apart. Those at every `every` steps make the curve, not one at a run's end, or a run that goes on would decide
    otherwise than one that did not end. `validated` gives the newest loss in nats.
    """

    def __init__(self, ends: Ends, num_growths: int, every: int, validated: Callable[[], float | None]) -> None:
        self._ends, self._num_growths, self._every, self._validated = ends, num_growths, every, validated
        self._steps: list[int] = []
        self._losses: list[float] = []
        self.reached: int | None = None
        self.loss_reached: int | None = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Takes the evaluation; where it is time, the run ends after this step."""
        loss = self._validated()
        assert loss is not None
        if trainer.global_step % self._every == 0:
            self._steps.append(trainer.global_step)
            self._losses.append(loss)
        slope, target = self._ends.slope, self._ends.loss
        found = None if slope is None else seen(self._steps, self._losses, slope)
        if found is not None and found.is_likely:
            self.reached = trainer.global_step
        if target is not None and loss <= target:
            self.loss_reached = trainer.global_step
        if trainer.global_step in (self.reached, self.loss_reached):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """The evaluations so far."""
        return {
            "num_growths": self._num_growths,
            "steps": self._steps,
            "losses": self._losses,
            "reached": self.reached,
            "loss_reached": self.loss_reached,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on with those of the same model."""
        if state_dict["num_growths"] == self._num_growths:
            self._steps, self._losses = list(state_dict["steps"]), list(state_dict["losses"])


def reached_in(checkpoint: Mapping[str, Any], end: str = "reached") -> int | None:
    """The step at which the run of a checkpoint was ended by its slope, or with "loss_reached" by its loss; None where
    it was not, or the model has grown since.
    """
    state = (checkpoint.get("callbacks") or {}).get(STATE)
    if not isinstance(state, dict) or state.get(end) is None or state[end] != checkpoint.get("global_step"):
        return None
    num_growths = len((checkpoint.get("ckptgrow") or {}).get("history", ()))
    return int(state[end]) if state.get("num_growths") == num_growths else None
