"""The card beside a grown model: what was done to it, anew at each growth, and never in the place of its owner's."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptgrow
from tests.helpers.gpt2 import perturbed_gpt2


@pytest.fixture
def small(tmp_path: Path) -> Path:
    perturbed_gpt2().save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_a_grown_directory_says_what_it_was_and_what_was_done(small: Path, tmp_path: Path) -> None:
    ckptgrow.width(small, tmp_path / "wide", seed=7)
    ckptgrow.depth(tmp_path / "wide", tmp_path / "deep")
    card = (tmp_path / "deep" / "README.md").read_text(encoding="utf-8")
    history = ckptgrow.inspect(tmp_path / "deep").history
    for record in history:
        assert f"`{record['source_sha256']}`" in card and len(record["source_sha256"]) == 64
    assert "Growth 1: width" in card and "Growth 2: depth" in card and "seed 7" in card
    assert card.index("Growth 1") < card.index("residual 24") < card.index("layers 4")
    assert history[0]["source_sha256"] == ckptgrow.inspect(small, check=True).sha256
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_verification_and_conversion_take_it_for_growths_own(small: Path, tmp_path: Path) -> None:
    ckptgrow.width(small, tmp_path / "wide")
    assert ckptgrow.verify(small, tmp_path / "wide").passed
    assert "README.md" not in ckptgrow.convert(tmp_path / "wide", tmp_path / "w.ckpt", "lightning").left_out
    ckptgrow.convert(tmp_path / "w.ckpt", tmp_path / "again", "huggingface")
    assert (tmp_path / "again" / "README.md").read_text() == (tmp_path / "wide" / "README.md").read_text()


def test_an_owners_card_stays_and_what_was_never_grown_gets_none(small: Path, tmp_path: Path) -> None:
    ckptgrow.convert(small, tmp_path / "copy", "huggingface")
    assert not (tmp_path / "copy" / "README.md").exists()
    (small / "README.md").write_text("mine")
    ckptgrow.width(small, tmp_path / "wide")
    ckptgrow.depth(tmp_path / "wide", tmp_path / "deep")
    assert [(tmp_path / name / "README.md").read_text() for name in ("wide", "deep")] == ["mine"] * 2
    assert ckptgrow.verify(small, tmp_path / "wide").passed
