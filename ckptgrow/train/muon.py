"""Muon on hidden matrices with AdamW on all else, stepping as one optimizer, and kept in checkpoints as the two.

Muon's rate is scaled by 0.2 · √max(rows, columns) (`match_rms_adamw`), with which its updates are as large as AdamW's:
one learning rate and one weight decay serve both.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the scale: Liu et al., "Muon is
Scalable for LLM Training", arXiv 2502.16982, equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ckptgrow.train.groups import Named

MATCHED = "match_rms_adamw"
BY_GROUP = ("base_lrs", "_last_lr", "lr_lambdas")  # of a scheduler's state
PARTS = "parts"


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps `parts`, Muon and AdamW, whose groups are its own: Muon's first."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]  torch's has overloads
        """Steps both; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.parts:
            one.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {PARTS: [one.state_dict() for one in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the states of both."""
        for one, state in zip(self.parts, state_dict[PARTS], strict=True):
            one.load_state_dict(state)
        self.param_groups = [group for one in self.parts for group in one.param_groups]


def is_hidden_matrix(model: torch.nn.Module) -> Callable[[Named], bool]:
    """Tells the matrices that Muon trains from embeddings, heads, and whatever has another number of axes than two."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    tables = [one.weight for one in model.modules() if isinstance(one, torch.nn.Embedding)]
    outer = {id(one) for one in (*tables, *([] if head is None else [head.weight]))}
    return lambda named: named[1].dim() == 2 and id(named[1]) not in outer


def split_groups(model: torch.nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Groups of named parameters, divided into Muon's and AdamW's."""
    is_muons = is_hidden_matrix(model)
    found: list[list[dict[str, Any]]] = []
    for wanted in (True, False):
        chosen = [{**group, "params": [one for one in group["params"] if is_muons(one) is wanted]} for group in groups]
        found.append([group for group in chosen if group["params"]])
    return found


def separate(checkpoint: dict[str, Any]) -> None:
    """Puts both optimizers into a checkpoint that holds them as one, and a scheduler for each."""
    (state,), (scheduler,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    parts = state[PARTS]
    checkpoint["optimizer_states"] = parts
    schedulers: list[dict[str, Any]] = []
    start = 0
    for part in parts:
        stop = start + len(part["param_groups"])
        own = {name: scheduler[name][start:stop] for name in BY_GROUP if name in scheduler}
        schedulers.append({**scheduler, **own})
        start = stop
    checkpoint["lr_schedulers"] = schedulers


def join(checkpoint: dict[str, Any]) -> None:
    """Makes one of two optimizers, and of their schedulers, in a checkpoint; the reverse of `separate`."""
    states, schedulers = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    if len(states) > 1:
        checkpoint["optimizer_states"] = [{PARTS: states}]
    if len(schedulers) > 1:
        joined = {
            name: [value for one in schedulers for value in one[name]] for name in BY_GROUP if name in schedulers[0]
        }
        checkpoint["lr_schedulers"] = [{**schedulers[0], **joined}]
