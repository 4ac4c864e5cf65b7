"""SOAP's products and bases in grown tensors: what they must be, what they cannot be, and what `verify` sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_optimizer import SOAP

import ckptgrow
from ckptgrow.errors import OptimizerError
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import edited, load_model, save_lightning
from tests.helpers.optimizers import resumed, stored
from tests.helpers.state_requests import MUP


def soap(parameters: Any, lr: float = 2e-3, **options: Any) -> torch.optim.Optimizer:
    return SOAP(parameters, lr=lr, **{"eps": 1e-3, "precondition_frequency": 100, **options})


def checkpoint(tmp_path: Path, **options: Any) -> tuple[Any, torch.optim.Optimizer, Path]:
    model = perturbed_gpt2(n_layer=1, n_embd=6, n_inner=40)
    optimizer = soap(model.parameters(), **options)
    train(model, optimizer, token_batches(6))
    return model, optimizer, save_lightning(tmp_path / "small.ckpt", model, [optimizer], global_step=6)


def records(path: Path) -> list[dict[str, Any]]:
    return list(stored(path)[0]["state"].values())


@pytest.mark.parametrize("factor", [2, 3])
def test_a_grown_basis_is_orthonormal_and_makes_the_grown_products_diagonal(tmp_path: Path, factor: int) -> None:
    _, _, source = checkpoint(tmp_path)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor)
    for old, new in zip(records(source), records(tmp_path / "grown.ckpt"), strict=True):
        for small, products, before, basis in zip(old["GG"], new["GG"], old["Q"], new["Q"], strict=True):
            if len(small):
                assert torch.allclose(basis.T @ basis, torch.eye(len(basis), dtype=torch.float64), atol=1e-13)
                turned, as_before = basis.T @ products @ basis, before.T @ small @ before
                size, ratio = len(small), float(torch.trace(products) / torch.trace(small))
                rounding = 1e-14 * float(products.abs().max()) * size
                assert torch.allclose(turned[:size, :size], ratio * as_before, rtol=1e-11, atol=rounding)
                assert float(turned[size:].abs().max() if len(turned) > size else 0.0) <= rounding


def test_sides_too_long_for_a_basis_are_averaged_as_they_are(tmp_path: Path) -> None:
    small, optimizer, source = checkpoint(tmp_path, max_precondition_dim=16, weight_decay=0.1)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    assert any(len(one["GG"]) == 2 and not len(one["GG"][1]) and len(one["GG"][0]) for one in state["state"].values())
    batches = token_batches(20, seed=3)

    def build(parameters: Any, lr: float) -> torch.optim.Optimizer:
        return soap(parameters, lr, max_precondition_dim=16)

    losses = train(small, optimizer, batches), train(grown, resumed(grown, state, build, 2e-3), batches)
    assert max(abs(one - other) for one, other in zip(*losses, strict=True)) <= 1e-10
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=ckptgrow.Settings(batches=2, steps=4))
    assert report.passed, report.sentences


def test_bases_that_turn_keep_the_trajectory_as_far_as_they_are_computed(tmp_path: Path) -> None:
    small, optimizer, source = checkpoint(tmp_path, precondition_frequency=5)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    batches = token_batches(15, seed=3)
    losses = train(small, optimizer, batches), train(grown, resumed(grown, state, soap, 2e-3), batches)
    assert max(abs(one - other) for one, other in zip(*losses, strict=True)) <= 1e-7  # of a factoring in float32


@pytest.mark.parametrize(
    ("options", "width", "message"),
    [
        ({"merge_dims": True}, {}, r"axes merged \(merge_dims\).*reset=\("),
        ({"max_precondition_dim": 50}, {"factor": 2}, r"grows to 80 along an axis, above the 50"),
        ({}, {"ffn": 47}, r"no exact growth by uneven copies, expected whole multiples"),
        ({"normalize_gradient": True}, {"request": MUP}, r"SOAP with normalized gradients"),
    ],
)
def test_what_bases_cannot_follow_is_refused(tmp_path: Path, options: Any, width: Any, message: str) -> None:
    _, _, source = checkpoint(tmp_path, **{key: value for key, value in options.items() if key != "merge_dims"})
    edited(source, lambda tree: tree["optimizer_states"][0]["param_groups"][0].update(options))
    with pytest.raises(OptimizerError, match=message):
        ckptgrow.width(source, tmp_path / "grown.ckpt", **width)
    assert not (tmp_path / "grown.ckpt").exists()


def test_fresh_coordinates_and_new_layers_verify(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path)
    ckptgrow.width(source, tmp_path / "padded.ckpt", how="pad", ffn=47)
    ckptgrow.depth(source, tmp_path / "deeper.ckpt", place="append")
    for target in ("padded.ckpt", "deeper.ckpt"):
        report = ckptgrow.verify(source, tmp_path / target)
        assert report.passed, report.sentences


@pytest.mark.parametrize("key", ["GG", "Q", "exp_avg_sq"])
def test_a_tampered_matrix_is_named(tmp_path: Path, key: str) -> None:
    _, _, source = checkpoint(tmp_path)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    record = next(one for one in tree["optimizer_states"][0]["state"].values() if len(one["GG"]) == 2)
    tensor = record[key] if key == "exp_avg_sq" else record[key][1]
    tensor.view(-1)[0] += 1e-6
    torch.save(tree, tmp_path / "grown.ckpt")
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt")
    assert any(key in sentence for sentence in report.sentences), report.sentences
