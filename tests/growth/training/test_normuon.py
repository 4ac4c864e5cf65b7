"""NorMuon: rows of squares of the orthogonal update, in one optimizer with AdamW, against pytorch-optimizer's own."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_optimizer import NorMuon

import ckptgrow
from ckptgrow.errors import OptimizerError
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import load_model, save_lightning
from tests.helpers.optimizers import WhatIsNew, check_what_is_new, regrouped, stored
from tests.helpers.state_requests import MUP
from tests.helpers.two_optimizers import is_hidden

OWN = importlib.import_module("pytorch_optimizer.optimizer.muon.normuon")


def orthogonal(matrix: torch.Tensor, **_: Any) -> torch.Tensor:
    """What Newton and Schulz's iteration in bfloat16 approaches: U Vᵀ of the singular vectors of a matrix."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    is_there = values > 1e-9 * values.max()
    return left[:, is_there] @ right[is_there]


def groups_of(model: torch.nn.Module, **options: Any) -> list[dict[str, Any]]:
    hidden = [parameter for name, parameter in model.named_parameters() if is_hidden(name, parameter)]
    others = [parameter for name, parameter in model.named_parameters() if not is_hidden(name, parameter)]
    return [
        {"params": hidden, "use_muon": True, "lr": 1e-2, "weight_decay": 0.1, **options},
        {"params": others, "use_muon": False, "lr": 2e-3, "weight_decay": 0.1, "eps": 1e-6},
    ]


def checkpoint(tmp_path: Path, **options: Any) -> tuple[Any, torch.optim.Optimizer, Path]:
    model = perturbed_gpt2(n_layer=1, n_embd=6, n_inner=10)
    optimizer = NorMuon(groups_of(model, **options), foreach=False)
    train(model, optimizer, token_batches(6))
    return model, optimizer, save_lightning(tmp_path / "small.ckpt", model, [optimizer], global_step=6)


@pytest.mark.parametrize(
    "options",
    [{}, {"use_adjusted_lr": True}, {"update_scale": "match_rms"}],
    ids=["Muon's size", "adjusted", "of set size"],
)
def test_with_exact_orthogonal_matrices_the_trajectory_is_the_small_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    monkeypatch.setattr(OWN, "zero_power_via_newton_schulz_5", orthogonal)
    small, optimizer, source = checkpoint(tmp_path, **options)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    other = NorMuon(regrouped(grown, state), foreach=False)
    other.load_state_dict(state)
    batches = token_batches(15, seed=3)
    losses = train(small, optimizer, batches), train(grown, other, batches)
    assert max(abs(one - other) for one, other in zip(*losses, strict=True)) <= 1e-7  # ε beside norms


def test_rows_are_those_that_the_optimizer_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OWN, "zero_power_via_newton_schulz_5", orthogonal)
    model = perturbed_gpt2(n_layer=1, n_embd=6, n_inner=10)
    optimizer = NorMuon(groups_of(model, lr=0.0), foreach=False)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, token_batches(6))
    source = save_lightning(tmp_path / "small.ckpt", model, [optimizer], global_step=6)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=3, noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    real = NorMuon(regrouped(grown, state), foreach=False)
    train(grown, real, token_batches(6))
    found = NorMuon(regrouped(grown, state), foreach=False)
    found.load_state_dict(state)
    num_rows = 0
    for parameter in grown.parameters():
        for key, expected in real.state[parameter].items():
            assert torch.allclose(
                found.state[parameter][key], expected, rtol=1e-8, atol=1e-9 * float(expected.abs().max())
            )
            num_rows += key == "second_momentum_buffer"
    assert num_rows == 4


def test_a_grown_run_verifies_with_its_steps_and_a_tampered_row_is_named(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path)
    target = tmp_path / "grown.ckpt"
    ckptgrow.width(source, target, noise=0, request=MUP)
    report = ckptgrow.verify(source, target, settings=ckptgrow.Settings(batches=2, steps=4))
    assert report.passed and report.structure.lr_rule == "mup", report.sentences
    assert report.trajectory is not None and report.trajectory.judged
    tree = torch.load(target, weights_only=True)
    record = next(one for one in tree["optimizer_states"][0]["state"].values() if "second_momentum_buffer" in one)
    record["second_momentum_buffer"][0] *= 1.01
    torch.save(tree, target)
    sentences = ckptgrow.verify(source, target).sentences
    assert any("second_momentum_buffer" in sentence for sentence in sentences), sentences


@pytest.mark.parametrize("growth", ["padded", "deeper"])
def test_fresh_coordinates_and_new_layers_verify(tmp_path: Path, growth: WhatIsNew) -> None:
    _, _, source = checkpoint(tmp_path)
    check_what_is_new(source, tmp_path / "grown.ckpt", growth)


def test_what_its_rows_cannot_follow_is_refused(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path)
    with pytest.raises(OptimizerError, match=r"second_momentum_buffer.*no exact growth by uneven copies"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=13)
    _, _, source = checkpoint(tmp_path, weight_decouple=False)
    with pytest.raises(OptimizerError, match=r"NorMuon with weight decay in the gradient"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", request=MUP)
