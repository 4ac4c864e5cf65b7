"""Muon on hidden matrices with AdamW on the rest: two optimizers in one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import _muon

import ckptgrow
from ckptgrow.errors import OptimizerError
from ckptgrow.growth.request import StateRequest
from tests.helpers.gpt2 import language_loss, token_batches, train
from tests.helpers.lightning_files import load_model, save_lightning
from tests.helpers.optimizer_states import NUM_STEPS, assert_equal_states, states_by_name
from tests.helpers.optimizers import anew, resumed, stored, tiny_gpt2
from tests.helpers.state_requests import MUP
from tests.helpers.two_optimizers import Both, adamw, muon, split


def exact_zeropower(grad: torch.Tensor, coefficients: Any, steps: int, eps: float) -> torch.Tensor:
    """The same iteration in the gradient's own dtype, where torch computes in bfloat16."""
    a, b, c = coefficients
    found = grad.T if grad.size(0) > grad.size(1) else grad
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        square = found @ found.T
        found = a * found + (b * square + c * square @ square) @ found
    return found.T if grad.size(0) > grad.size(1) else found


def grown_run(tmp_path: Path, how: Any, lr: float, factor: int, adjust: str | None = None) -> tuple[Any, Any, Any, Any]:
    model, source = tiny_gpt2(), tmp_path / "small.ckpt"
    small = split(model, lr, adjust)
    train(model, Both(small), token_batches(NUM_STEPS))  # pyright: ignore[reportArgumentType]
    save_lightning(source, model, small, global_step=NUM_STEPS)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, how=how, noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    return model, small, grown, stored(tmp_path / "grown.ckpt")


def test_the_state_of_both_is_what_they_build_in_the_grown_model(tmp_path: Path) -> None:
    model, small, grown, states = grown_run(tmp_path, "diagonal", 0.0, 3)
    builds = (muon, adamw)
    real = [anew(grown, state, build, 0.0) for state, build in zip(states, builds, strict=True)]
    train(grown, Both(real), token_batches(NUM_STEPS))  # pyright: ignore[reportArgumentType]
    for optimizer, other, state, build in zip(small, real, states, builds, strict=True):
        of_names = {name: record for name, record in states_by_name(other, grown).items() if record}
        found = states_by_name(resumed(grown, state, build, 0.0), grown)
        assert of_names
        assert_equal_states(states_by_name(optimizer, model), found, of_names, 3, 1e-9)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("how", ["diagonal", "tile"])
def test_under_mup_muon_keeps_the_trajectory(
    tmp_path: Path, how: Any, adjust: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", exact_zeropower)
    model, small, grown, states = grown_run(tmp_path, how, 2e-3, 2, adjust)
    if adjust == "original":  # hidden matrices keep their learning rate
        assert {group["lr"] for group in states[0]["param_groups"]} == {2e-2}
    both = [resumed(grown, state, build, 0.0) for state, build in zip(states, (muon, adamw), strict=True)]
    batches = token_batches(20, seed=3)
    small_losses = train(model, Both(small), batches)  # pyright: ignore[reportArgumentType]
    grown_losses = train(grown, Both(both), batches)  # pyright: ignore[reportArgumentType]
    assert small_losses[-1] != small_losses[0]
    assert max(abs(one - other) for one, other in zip(small_losses, grown_losses, strict=True)) <= 1e-10


def test_muon_in_its_own_bfloat16_keeps_the_trajectory_to_that_precision(tmp_path: Path) -> None:
    model, small, grown, states = grown_run(tmp_path, "tile", 2e-4, 2)
    both = [resumed(grown, state, build, 0.0) for state, build in zip(states, (muon, adamw), strict=True)]
    batches = token_batches(20, seed=3)
    small_losses = train(model, Both(small), batches)  # pyright: ignore[reportArgumentType]
    grown_losses = train(grown, Both(both), batches)  # pyright: ignore[reportArgumentType]
    difference = max(abs(one - other) for one, other in zip(small_losses, grown_losses, strict=True))
    assert difference <= 1e-3  # bfloat16 rounds to 2^-9


def test_two_optimizers_with_names_may_split_the_parameters_in_any_way(tmp_path: Path) -> None:
    model, source = tiny_gpt2(), tmp_path / "small.ckpt"
    named = list(model.named_parameters())
    halves = [named[::2], named[1::2]]  # equal shapes in both: the order alone could not tell
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(halves[0]), torch.optim.SGD(halves[1], momentum=0.9)]
    language_loss(model, token_batches(1)[0]).backward()
    for one in optimizers:
        one.step()
    save_lightning(source, model, optimizers)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
    states = stored(tmp_path / "grown.ckpt")
    shapes = {name: parameter.shape for name, parameter in load_model(tmp_path / "grown.ckpt")[0].named_parameters()}
    for state, half, key in zip(states, halves, ("exp_avg", "momentum_buffer"), strict=True):
        for number, (name, _) in enumerate(half):
            assert state["state"][number][key].shape == shapes[name]


def test_two_optimizers_that_shapes_cannot_tell_apart_are_refused_until_an_order_is_given(tmp_path: Path) -> None:
    model, source = tiny_gpt2(), tmp_path / "small.ckpt"
    named = list(model.named_parameters())
    halves = [named[::2], named[1::2]]
    optimizers = [torch.optim.AdamW([parameter for _, parameter in half]) for half in halves]
    language_loss(model, token_batches(1)[0]).backward()
    for one in optimizers:
        one.step()
    save_lightning(source, model, optimizers)
    with pytest.raises(OptimizerError, match=r"more than one order.*param_order=FILE"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
    order = tmp_path / "order.txt"
    order.write_text("\n".join(name for half in halves for name, _ in half))
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(param_order=order))
    assert (tmp_path / "grown.ckpt").exists()


def test_muon_over_what_is_no_matrix_has_no_rule(tmp_path: Path) -> None:
    model, source = tiny_gpt2(), tmp_path / "small.ckpt"
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    train(model, optimizer, token_batches(2))
    save_lightning(source, model, [optimizer])
    tree = torch.load(source, weights_only=True)
    (group,) = tree["optimizer_states"][0]["param_groups"]
    group.update(ns_coefficients=(3.4445, -4.775, 2.0315), ns_steps=5, eps=1e-7, adjust_lr_fn=None)
    torch.save(tree, source)
    with pytest.raises(OptimizerError, match=r'has 1 axes, expected a matrix; use lr_rule="keep"'):
        ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=MUP)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
