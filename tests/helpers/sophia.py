"""Sophia-G by its paper (Liu et al., arXiv 2305.14342, algorithm 3), with the keys that its authors' code writes.

The curvature is the square of a gradient from labels that are drawn from the model; here of the last gradient, every
other step, which is as good for what growth makes of it.
"""

from __future__ import annotations

from typing import Any

import torch

BATCH = 16.0  # how many tokens a step stands for
LEAST = 1e-15  # beside a curvature of zero


class SophiaG(torch.optim.Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "rho": rho, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                record = self.state[parameter]
                if not record:
                    record["step"] = torch.tensor(0.0)
                    record["exp_avg"], record["hessian"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                if record["step"] % 2 == 0:
                    record["hessian"].mul_(second).add_((1 - second) * parameter.grad**2)
                record["step"] += 1
                record["exp_avg"].mul_(first).add_((1 - first) * parameter.grad)
                curvature = group["rho"] * BATCH * record["hessian"] + LEAST
                ratio = (record["exp_avg"] / curvature).clamp(-1, 1)
                parameter.sub_(group["lr"] * (ratio + group["weight_decay"] * parameter))
