"""Muon on hidden matrices with AdamW on the rest, as one."""

from __future__ import annotations

from typing import Any

import torch


class Both:
    """Two optimizers that step together."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    def zero_grad(self, set_to_none: bool = True) -> None:
        for one in self.optimizers:
            one.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for one in self.optimizers:
            one.step()


def muon(groups: Any, lr: float, adjust: str | None = None) -> torch.optim.Muon:
    return torch.optim.Muon(groups, lr=lr, weight_decay=0.1, eps=1e-7, adjust_lr_fn=adjust)


def adamw(groups: Any, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=lr, weight_decay=0.1, eps=1e-6)


def is_hidden(name: str, parameter: torch.Tensor) -> bool:
    return parameter.dim() == 2 and ".h." in name


def split(model: torch.nn.Module, lr: float, adjust: str | None = None) -> list[torch.optim.Optimizer]:
    hidden = [parameter for name, parameter in model.named_parameters() if is_hidden(name, parameter)]
    others = [parameter for name, parameter in model.named_parameters() if not is_hidden(name, parameter)]
    return [muon(hidden, 10 * lr, adjust), adamw(others, lr)]
