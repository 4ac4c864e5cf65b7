"""A rise of the learning rates after a growth, whatever the optimizer and its schedule: hooks around a step.

The k-th step after the growth, counted from 0, is made at

    (k + 1) / N · the rate that the schedule says          for k < N

which is what `--rewarm N` is in `ckptgrow train`. The schedule never sees it: between two steps the groups have the
schedule's own rates, so that those that compute a rate from the one before (cosine, exponential, …) stay right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ckptgrow.errors import OptimizerError, RequestError

_RISING: WeakKeyDictionary[torch.optim.Optimizer, Rewarming] = WeakKeyDictionary()


class Rewarming:
    """Lets the learning rates of `optimizer` rise again over the next `steps` steps, of which `done` are behind it.

        grown = ckptgrow.grow(model, optimizer, scheduler, width=2, request=StateRequest(rewarm=100))   # makes one
        rise = ckptgrow.Rewarming(optimizer, 100)       # in a script that loads what was grown through files

    Steps that a loss scaler skips are none. A new one ends the one before; `remove` ends it, too. `state_dict` and
    `load_state_dict` carry how far it is through an interruption.

    Raises RequestError for numbers of steps that cannot be, OptimizerError for groups without a learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, done: int = 0) -> None:
        _check(steps, done)
        for number, group in enumerate(optimizer.param_groups):
            if not isinstance(group.get("lr"), float | int | torch.Tensor):
                raise OptimizerError(
                    f"⟦rewarm {steps}⟧: group {number} has no learning rate that could rise (lr is "
                    f"{group.get('lr')}), expected a number"
                )
        end_rewarming(optimizer)
        self.steps, self.done = steps, done
        self._kept: list[tuple[dict[str, Any], Any]] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._lower),
            optimizer.register_step_post_hook(self._restore),
        ]
        _RISING[optimizer] = self

    @property
    def factor(self) -> float:
        """Of the next step."""
        return min(1.0, (self.done + 1) / self.steps)

    def state_dict(self) -> dict[str, int]:
        """Its length, and the steps that are done."""
        return {"steps": self.steps, "done": self.done}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on where a state was. Raises RequestError for one that is none."""
        if set(state) != {"steps", "done"}:
            found = ", ".join(state) or "nothing"
            raise RequestError(f"the state of a re-warming has {found}, expected steps and done")
        _check(state["steps"], state["done"])
        self.steps, self.done = state["steps"], state["done"]

    def remove(self) -> None:
        """All steps from now on are made at the schedule's rates."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def is_over(self) -> bool:
        """Whether the rates have risen, or rise no more."""
        return not self._hooks or self.done >= self.steps

    def _lower(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in self._kept:  # a step that raised
            _set(group, rate)
        self._kept = []
        if self.factor < 1:
            for group in optimizer.param_groups:
                rate = group["lr"]
                self._kept.append((group, rate.clone() if torch.is_tensor(rate) else rate))
                _set(group, rate * self.factor)

    def _restore(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in self._kept:
            _set(group, rate)
        self._kept = []
        self.done += 1


def end_rewarming(optimizer: torch.optim.Optimizer) -> None:
    """Ends what lets an optimizer's rates rise, where anything does."""
    found = _RISING.pop(optimizer, None)
    if found is not None:
        found.remove()


def _check(steps: int, done: int) -> None:
    if steps < 1 or done < 0:
        raise RequestError(f"⟦rewarm {steps}⟧: expected at least one step, and no negative number of those done")


def _set(group: dict[str, Any], rate: Any) -> None:
    """Sets a group's rate; one that is a tensor keeps its place, which compiled steps read."""
    if torch.is_tensor(group["lr"]):
        group["lr"].copy_(rate)
    else:
        group["lr"] = rate
