"""Grown optimizer state against what the real optimizer builds in the grown model over the same batches, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ckptgrow
from tests.helpers.gpt2 import token_batches, train
from tests.helpers.lightning_files import load_model, save_lightning
from tests.helpers.optimizer_states import NUM_STEPS, assert_equal_states, states_by_name
from tests.helpers.optimizers import CASES, anew, resumed, stored, tiny_gpt2
from tests.helpers.state_requests import MUP


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
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, how=how, noise=0, request=case.rules)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    found = states_by_name(resumed(grown, state, case.build, 0.0), grown)
    real = anew(grown, state, case.build, 0.0)
    train(grown, real, token_batches(NUM_STEPS))
    assert_equal_states(states_by_name(small, model), found, states_by_name(real, grown), factor, 1e-9)


@pytest.mark.sampled(10)
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
