"""Lion, which torch does not have: the sign of a mix of momentum and gradient, with decoupled decay.

    w ← w − lr · (sign(β₁ m + (1 − β₁) g) + wd · w)        m ← β₂ m + (1 − β₂) g

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675, algorithm 2.
"""

from __future__ import annotations

from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """Lion as a torch optimizer: groups need `lr`, `betas` and `weight_decay`; a parameter's record holds `exp_avg`."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter with a gradient."""
        for group in self.param_groups:
            mix, decay = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                sign = torch.lerp(parameter.grad, momentum, mix).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(sign, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - decay)
