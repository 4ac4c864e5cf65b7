"""Shares of copies are read from the weights: a record of another spread is caught, and so is a share that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings
from ckptgrow.verification.report import VerifyReport
from tests.helpers.families import perturbed
from tests.helpers.lightning_files import save_lightning

Tree = dict[str, Any]
UP = "model.model.layers.0.mlp.up_proj.weight"
GROWTHS: dict[str, dict[str, Any]] = {
    "1": {"spread": 1.0},
    "1.5": {"spread": 1.5},
    "0.2 of three": {"factor": 3, "spread": 0.2},
    "of uneven copies": {"ffn": 33, "spread": 1.25},
}


def grown(tmp_path: Path, stored: torch.dtype, **sizes: Any) -> tuple[Path, Path]:
    source = save_lightning(tmp_path / "small.ckpt", perturbed("llama").to(stored))
    ckptgrow.width(source, tmp_path / "grown.ckpt", **sizes)
    return source, tmp_path / "grown.ckpt"


def verified(source: Path, path: Path) -> VerifyReport:
    return ckptgrow.verify(source, path, settings=Settings(batches=1))


def changed(path: Path, change: Callable[[Tree], object]) -> Path:
    tree = torch.load(path, weights_only=True)
    change(tree)
    torch.save(tree, path.with_name("tampered.ckpt"))
    return path.with_name("tampered.ckpt")


@pytest.mark.sampled(5)
@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("growth", GROWTHS)
def test_every_spread_verifies_and_a_record_of_another_is_named(
    tmp_path: Path, growth: str, stored: torch.dtype
) -> None:
    source, path = grown(tmp_path, stored, **GROWTHS[growth])
    report = verified(source, path)
    assert report.passed, report.sentences
    found = GROWTHS[growth]["spread"]
    for lie in (0.5, found * 1.1):
        tampered = changed(path, lambda tree, lie=lie: tree["ckptgrow"]["history"][-1].update(spread=lie))
        report = verified(source, tampered)
        assert not report.passed
        named = f"the history says spread {lie:g}, but the weights have {found:.3g}"
        assert named in report.sentences, report.sentences


def exchanged(tree: Tree) -> None:
    """The shares of one row's copies, given half and half to each: its sum stays, and so does the function."""
    weight = tree["state_dict"][UP]
    half = weight[3, :16] / 2 + weight[3, 16:] / 2
    weight[3, :16], weight[3, 16:] = half, half


def hidden(tree: Tree) -> None:
    """A term that cancels between two copies."""
    weight = tree["state_dict"][UP]
    weight[3, 5] += 0.125
    weight[3, 21] -= 0.125


@pytest.mark.parametrize("tamper", [exchanged, hidden], ids=lambda one: one.__name__)
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_shares_of_other_sizes_are_caught_where_the_function_cannot_see_them(
    tmp_path: Path, spread: float, tamper: Callable[[Tree], None]
) -> None:
    source, path = grown(tmp_path, torch.float64, spread=spread)
    report = verified(source, changed(path, tamper))
    assert report.function.passed and not report.passed
    assert any("separated by split, but the weights show noise" in one for one in report.sentences), report.sentences


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_one_share_by_one_last_place_is_seen(tmp_path: Path, stored: torch.dtype) -> None:
    source, path = grown(tmp_path, stored, spread=1.0)

    def change(tree: Tree) -> None:
        weight = tree["state_dict"][UP].view(-1)
        weight[int(weight.abs().argmax())] *= 1 + torch.finfo(stored).eps

    report = verified(source, changed(path, change))
    assert not report.passed and any(f"{UP}: the weight differs" in one for one in report.sentences), report.sentences


def test_weak_noise_in_bfloat16_is_no_even_share(tmp_path: Path) -> None:
    source, path = grown(tmp_path, torch.bfloat16, noise=0.25)
    assert verified(source, path).passed
