"""A record that says another thing than the weights show, each value one that growth does write."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import CkptgrowError
from tests.helpers.correct_growths import GROWTHS, SCHEDULES, scheduled_checkpoint

LIES: dict[str, list[dict[str, Any]]] = {
    "width": [
        {"how": "pad", "separate": "none"},
        {"separate": "none"},
        {"separate": "noise", "noise": 1.0},
        {"lr_rule": "mup"},
        {"step": [6, 5]},
        {"step": [5, 6]},
        {"factor": 3},
        {"factor": None, "ffn": 24},
        {"operator": "depth", "new": "copy", "layers": [[0, "old"], [1, "old"]]},
        {"reset": ["optimizer"]},
        {"reset": ["schedule"]},
        {"reset": ["new"]},
        {"moments": "unscaled"},
        {"new_coordinates": {}},
        {"drop": ["rng"]},
        {"source_sha256": "0" * 64},
    ],
    "tile": [{"how": "diagonal"}, {"how": "pad"}, {"separate": "split"}, {"separate": "noise", "noise": 1.0}],
    "diagonal": [{"how": "tile"}, {"how": "pad"}, {"separate": "split"}, {"factor": 2}],
    "noise": [{"noise": 1.0}, {"noise": 0.25}, {"separate": "split", "noise": 0.0}, {"separate": "none", "noise": 0.0}],
    "append": [
        {"new": "copy"},
        {"layers": [[0, "old"], [0, "zero-output"], [1, "old"], [1, "zero-output"]]},
        {"layers": [[0, "old"], [1, "old"], [1, "zero-output"], [0, "zero-output"]]},
        {"new": "zero-norm", "layers": [[0, "old"], [1, "old"], [0, "zero-norm"], [1, "zero-norm"]]},
        {"step": [6, 2]},
    ],
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], tuple[Path, Path]]:
    """A small checkpoint and a grown one that verifies, which all lies about this growth begin from."""

    @cache
    def pair(growth: str, has_optimizer: bool) -> tuple[Path, Path]:
        directory = tmp_path_factory.mktemp("grown")
        small = scheduled_checkpoint(directory / "small.ckpt", SCHEDULES["cosine"], rng={"seed": 7})
        if not has_optimizer:
            tree = torch.load(small, weights_only=True)
            torch.save({**tree, "optimizer_states": [], "lr_schedulers": []}, small)
        GROWTHS[growth](small, directory / "grown.ckpt", StateRequest())
        assert ckptgrow.verify(small, directory / "grown.ckpt", settings=Settings(batches=1)).passed
        return small, directory / "grown.ckpt"

    return pair


@pytest.mark.sampled(14)
@pytest.mark.parametrize("has_optimizer", [True, False], ids=["optimizer", "weights alone"])
@pytest.mark.parametrize(("growth", "lie"), [(growth, lie) for growth, lies in LIES.items() for lie in lies], ids=str)
def test_a_record_that_lies_is_caught(
    grown: Callable[[str, bool], tuple[Path, Path]],
    tmp_path: Path,
    growth: str,
    lie: dict[str, Any],
    has_optimizer: bool,
) -> None:
    if not has_optimizer and lie.keys() & {"lr_rule", "reset", "moments"}:
        return  # there is nothing that it could say falsely
    small, right = grown(growth, has_optimizer)
    tree = torch.load(right, weights_only=True)
    tree["ckptgrow"]["history"][-1].update(lie)
    torch.save(tree, tmp_path / "tampered.ckpt")
    try:
        assert not ckptgrow.verify(small, tmp_path / "tampered.ckpt", settings=Settings(batches=1)).passed
    except CkptgrowError:
        return  # read by its record, it is not a growth of the small one


def test_a_fingerprint_as_growths_recorded_it_before_blocks_is_known(
    grown: Callable[[str, bool], tuple[Path, Path]], tmp_path: Path
) -> None:
    small, right = grown("tile", True)
    total = hashlib.sha256()
    for name, tensor in sorted(torch.load(small, weights_only=True)["state_dict"].items()):
        of_tensor = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)} {of_tensor}\n".encode())
    tree = torch.load(right, weights_only=True)
    tree["ckptgrow"]["history"][-1]["source_sha256"] = total.hexdigest()
    torch.save(tree, tmp_path / "old.ckpt")
    report = ckptgrow.verify(small, tmp_path / "old.ckpt", settings=Settings(level="stored"))
    assert report.passed, report.sentences


@pytest.mark.parametrize("growth", GROWTHS)
def test_a_record_that_is_gone_is_missed(tmp_path: Path, growth: str) -> None:
    small = scheduled_checkpoint(tmp_path / "small.ckpt", SCHEDULES["cosine"])
    GROWTHS[growth](small, tmp_path / "grown.ckpt", StateRequest())
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    del tree["ckptgrow"]
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(small, tmp_path / "tampered.ckpt", settings=Settings(batches=1))
    assert not report.passed
    assert any("no record of the growth" in line for line in report.sentences), report.sentences
