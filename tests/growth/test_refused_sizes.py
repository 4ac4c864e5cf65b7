"""A size that cannot be is refused with the sizes that can, before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.commands import refused
from tests.helpers.paths import ROOT

SMALL = str(ROOT / "fixtures" / "gpt2-tiny.ckpt")  # residual 48, heads of 12, feed-forward 192


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--how pad --hidden 70", "--hidden 70: gpt2 has heads of 12 each; the nearest is 60 or 72"),
        ("--how pad --hidden 10", "--hidden 10: at least 48; the nearest is 48"),
        ("--factor 257", "--factor 257: 257 copies of a coordinate, expected at most 256"),
        ("--ffn 49344", "--ffn 49344: 257 copies of a coordinate, expected at most 256"),
    ],
)
def test_a_size_in_width_is_refused_with_those_that_can_be(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["width", SMALL, str(tmp_path / "out.ckpt"), *options.split()]
    refused(words, capsys, *(part for one in said.split(": ") for part in one.split("; ")))
    assert not list(tmp_path.iterdir())


def test_a_number_of_layers_is_told_to_be_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["depth", SMALL, str(tmp_path / "out.ckpt"), "--layers", "3"]
    refused(words, capsys, "for each new layer the old one", "as 0-1,1")


def test_a_directory_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: mode & os.W_OK == 0)
    refused(["width", SMALL, str(tmp_path / "out.ckpt")], capsys, f"{tmp_path}: may not be written", "out.ckpt")
