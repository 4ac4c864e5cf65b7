"""Lion by its paper (Chen et al., arXiv 2302.06675, algorithm 2), with the keys that its well-known packages write."""

from __future__ import annotations

from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                direction = torch.sign(first * momentum + (1 - first) * parameter.grad)
                parameter.sub_(group["lr"] * (direction + group["weight_decay"] * parameter))
                momentum.copy_(second * momentum + (1 - second) * parameter.grad)
