"""Objects that others hold on to become the grown ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.live.in_place import become
from tests.helpers.families import batches, outputs, perturbed
from tests.helpers.lightning_files import assert_same


def stepped(model: Any, optimizer: torch.optim.Optimizer, scheduler: Any, samples: list[torch.Tensor]) -> list[float]:
    losses: list[float] = []
    for tokens in samples:
        loss = outputs(model, tokens).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(float(loss.detach()))
    return losses


def plain(model: torch.nn.Module) -> Any:
    return model


def compiled(model: torch.nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    ("family", "growth", "wrapped"),
    [
        ("t5", {"width": 2, "request": StateRequest(lr_rule="mup")}, plain),  # whose outermost module keeps a size
        pytest.param("llama tied", {"depth": 2}, compiled, marks=pytest.mark.slow),
        ("llama tied", {"depth": 2}, plain),
        ("mixtral", {"ffn": 40}, plain),
        ("gpt2", {"hidden": 24, "heads": 6, "how": "pad"}, plain),
    ],
)
def test_what_was_grown_becomes_what_it_grew_to(
    family: str, growth: dict[str, Any], wrapped: Callable[[torch.nn.Module], Any]
) -> None:
    model = perturbed(family).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 2), lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)]
    scheduler = lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])
    held = wrapped(model)
    stepped(held, optimizer, scheduler, batches(3))
    grown = ckptgrow.grow(model, optimizer, scheduler, **growth)
    wanted = ckptgrow.grow(model, optimizer, scheduler, **growth)
    become(model, [optimizer], [scheduler], grown)
    assert scheduler.optimizer is optimizer and parts[1].optimizer is optimizer
    assert model.config.to_dict() == wanted.model.config.to_dict()
    more = batches(4, seed=3)
    assert wanted.optimizer is not None
    expected = stepped(wanted.model, wanted.optimizer, wanted.scheduler, more)
    assert stepped(held, optimizer, scheduler, more) == expected
    assert_same(wanted.model.state_dict(), model.state_dict())
    assert_same(wanted.optimizer.state_dict(), optimizer.state_dict())
    assert_same(wanted.scheduler.state_dict(), scheduler.state_dict())
    trained = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert trained == {id(one) for one in model.parameters()} and len(optimizer.state) == len(trained)
