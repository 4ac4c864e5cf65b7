"""Grown optimizer state against what the real optimizer builds in the grown model over the same batches, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.growth.request import StateRequest
from tests.builders import load_model, save_lightning, token_batches, train
from tests.optimizers.runs import CASES, anew, resumed, stored, tiny_gpt2

MUP = StateRequest(lr_rule="mup")
NUM_STEPS = 8  # beyond RAdam's first steps, which are SGD's


def pieces_along(axis: int, new: int, old: int, factor: int, name: str) -> int:
    """How many blocks an axis of a grown tensor falls into: copies, of each part of a fused projection."""
    if new == old:
        return 1
    return 3 * factor if "c_attn" in name and axis == -1 else factor


def worst_block_error(name: str, found: torch.Tensor, expected: torch.Tensor, old: torch.Size, factor: int) -> float:
    """Largest difference in any block, relative to that block's largest entry."""
    assert found.shape == expected.shape
    pairs = [(found, expected)]
    for axis in range(-found.dim(), 0):
        count = pieces_along(axis, found.shape[axis], old[axis], factor, name)
        pairs = [
            part for one, other in pairs for part in zip(one.chunk(count, axis), other.chunk(count, axis), strict=True)
        ]
    return max(float((one - other).abs().max() / other.abs().max().clamp(min=1e-300)) for one, other in pairs)


def states_by_name(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    return {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}


def assert_equal_states(small: Any, found: Any, real: Any, factor: int, tolerance: float) -> None:
    for name, record in real.items():
        assert set(found[name]) == set(record)
        for key, expected in record.items():
            value = found[name][key]
            if not isinstance(expected, torch.Tensor) or expected.dim() == 0:
                assert float(value) == pytest.approx(float(expected), rel=tolerance), (name, key)
            elif name.endswith("c_attn.bias"):  # the keys' part has gradient zero, but for rounding
                assert float((value - expected).abs().max()) <= tolerance * float(expected.abs().max()), (name, key)
            else:
                error = worst_block_error(name, value, expected, small[name][key].shape, factor)
                assert error <= tolerance, (name, key, error)


@pytest.mark.parametrize(
    ("optimizer", "factor", "how"),
    [(name, 2 + index % 2, ("diagonal", "tile")[index % 2]) for index, name in enumerate(CASES)],
)
def test_grown_state_is_what_the_optimizer_builds_in_the_grown_model(
    tmp_path: Path, optimizer: str, factor: int, how: Any
) -> None:
    case = CASES[optimizer]
    if how not in case.exact_in or optimizer == "SGD, momentum and decay":
        how = "tile"  # decay in the gradient: what the function cannot see of a weight decays too
    model, source = tiny_gpt2(), tmp_path / "small.ckpt"
    small = case.build(model.parameters(), 0.0)
    train(model, small, token_batches(NUM_STEPS))
    save_lightning(source, model, [small], global_step=NUM_STEPS)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, how=how, noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    found = states_by_name(resumed(grown, state, case.build, 0.0), grown)
    real = anew(grown, state, case.build, 0.0)
    train(grown, real, token_batches(NUM_STEPS))
    assert_equal_states(states_by_name(small, model), found, states_by_name(real, grown), factor, 1e-9)


@pytest.mark.parametrize(
    ("optimizer", "how"), [(name, how) for name, case in CASES.items() for how in case.exact_in], ids=str
)
def test_under_mup_twenty_steps_have_the_small_runs_losses(tmp_path: Path, optimizer: str, how: Any) -> None:
    case = CASES[optimizer]
    model, source = tiny_gpt2(), tmp_path / "small.ckpt"
    small = case.build(model.parameters(), case.lr)
    train(model, small, token_batches(NUM_STEPS))
    save_lightning(source, model, [small], global_step=NUM_STEPS)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, how=how, noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    batches = token_batches(20, seed=3)
    small_losses = train(model, small, batches)
    grown_losses = train(grown, resumed(grown, state, case.build, case.lr), batches)
    assert max(abs(one - other) for one, other in zip(small_losses, grown_losses, strict=True)) <= 1e-10
