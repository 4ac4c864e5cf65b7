"""A learning rate of their own for entries that are new, whatever the optimizer: hooks around its step.

An optimizer moves a parameter from p₀ to p₁ = p₀ − lr · u, u being free of lr: AdamW with its decoupled decay, SGD with
momentum and decay in the gradient, Muon. With the rate λ · lr it would have moved to p₀ + λ (p₁ − p₀). So

    p ← p₁ + (λ − 1) (p₁ − p₀)       on new entries, and p₁ on the others

is what an optimizer with a learning rate an entry does, and with λ = 1 nothing at all.

λ rises from 1 linearly to a peak, and stays there; it multiplies the schedule, so that all rates decay together.

Source: "SPARKLING", arXiv 2602.02472, which lets new entries rise to 1.3 times the rate in 250 steps; the hook is
derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ckptgrow.errors import OptimizerError, listing
from ckptgrow.state.train_schedule import NewRise
from ckptgrow.train.additions import NewEntries


class NewRates:
    """Multiplies the updates of new entries, from the next step of `optimizer` on; `remove` ends it.

        rates = NewRates(optimizer, model, new_entries(model, checkpoint), peak=1.3, steps=250)

    `state_dict` and `load_state_dict` carry how far it is through an interruption. It keeps a byte for
    every entry of the parameters that have new ones, and a copy of these while a step lasts. `model` has the very
    tensors that the optimizer updates, where they stay.

    Raises RequestError for a peak or a length that cannot be, OptimizerError where the optimizer lacks parameters.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        entries: Mapping[str, NewEntries],
        peak: float = 1.3,
        steps: int = 250,
    ) -> None:
        self.rise = NewRise.checked(peak, steps)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        updated = {id(one) for group in optimizer.param_groups for one in group["params"]}
        missing = [name for name in entries if name not in parameters or id(parameters[name]) not in updated]
        if missing:
            raise OptimizerError(f"the optimizer has no {listing(missing)}, expected the model's own parameters")
        self._new = [(parameters[name], one.mask(parameters[name].device)) for name, one in entries.items()]
        self._before: list[torch.Tensor] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._move),
        ]

    @property
    def factor(self) -> float:
        """λ of the next step."""
        return self.rise.factor

    def state_dict(self) -> dict[str, Any]:
        """Peak, length, and the steps that are done."""
        return self.rise.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state was. Raises RequestError for one that is none."""
        self.rise = NewRise.of(state)

    def remove(self) -> None:
        """Gives all entries the same rate again."""
        for hook in self._hooks:
            hook.remove()

    def _remember(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.factor != 1:
            self._before = [parameter.detach().clone() for parameter, _ in self._new]

    @torch.no_grad()
    def _move(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for before, (parameter, is_new) in zip(self._before, self._new, strict=False):
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            after = parameter.to(dtype)
            moved = after + (self.factor - 1) * (after - before)
            parameter.copy_(torch.where(is_new, moved.to(parameter.dtype), parameter))
        self._before = []
        self.rise = self.rise.after_a_step()
