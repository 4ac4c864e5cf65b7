"""`--dry-run` tells beforehand what the command then does, and writes nothing."""

from __future__ import annotations

import shlex
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from ckptgrow.cli import run
from tests.helpers.commands import as_json, refused
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import trained_checkpoint

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2())


def bytes_at(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


@pytest.mark.parametrize(
    "words",
    [
        "width OUT.ckpt --lr-rule mup --step 3",
        "width OUT.ckpt --noise 0",
        "depth OUT.ckpt --reset optimizer",
        "convert OUT --to huggingface",
        "convert OUT --to dcp",
    ],
)
def test_what_is_told_is_what_happens(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    command, out, *options = shlex.split(words)
    line = [command, str(small), str(tmp_path / out), *options]
    before = sorted(tmp_path.iterdir())
    told = as_json([*line, "--dry-run"], capsys)
    assert sorted(tmp_path.iterdir()) == before
    done = as_json(line, capsys)
    assert told["dry_run"] is True
    assert {name: told[name] for name in done} == done
    written = bytes_at(tmp_path / out)
    assert isinstance(told["bytes"], int)
    assert (
        written <= told["bytes"] + 20_000 and told["bytes"] <= 1.05 * written + 400_000
    )  # room for many tensors' names


def test_the_rates_are_those_of_the_file(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["width", str(small), str(tmp_path / "grown.ckpt"), "--lr-rule", "mup"]
    told = as_json([*line, "--dry-run"], capsys)
    assert run(line) == 0
    groups = {
        name: torch.load(path, weights_only=False)["optimizer_states"][0]["param_groups"]
        for name, path in (("old", small), ("new", tmp_path / "grown.ckpt"))
    }
    expected = {
        name: [
            {"optimizer": 0, "tensors": len(one["params"]), **{key: one[key] for key in ("lr", "weight_decay", "eps")}}
            for one in found
        ]
        for name, found in groups.items()
    }
    assert told["groups"] == expected
    assert len(expected["new"]) > len(expected["old"])


def test_people_read_the_same(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["depth", str(small), str(tmp_path / "out.ckpt"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for words in ("nothing is written", "layers 2 → 4", "of disk", "rates", "carried", "layers: [0, 0, 1, 1]"):
        assert words in shown


@pytest.mark.parametrize("words", ["width OUT.ckpt", "depth OUT.ckpt", "convert OUT --to huggingface"])
def test_an_output_that_does_not_fit_is_told_and_exits_2(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    command, out, *options = shlex.split(words)
    told = as_json([command, str(small), str(tmp_path / out), *options, "--dry-run"], capsys, code=2)
    assert told["free_bytes"] == 1000


def test_what_would_be_refused_is_refused(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["width", str(small), str(small), "--dry-run"], capsys, "is the input itself")
    refused(["width", str(small), str(tmp_path / "o.ckpt"), "--factor", "1", "--dry-run"], capsys, "--factor 1")
    refused(["width", str(small), str(tmp_path / "o.safetensors"), "--dry-run"], capsys, "suffix")
    (tmp_path / "o.ckpt").touch()
    refused(["depth", str(small), str(tmp_path / "o.ckpt"), "--dry-run"], capsys, "exists already")
