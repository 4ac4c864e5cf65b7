"""A trainer's file is read and grown as its options, wrappers and habits make it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ckptgrow
from tests.helpers.lightning_files import assert_same
from tests.helpers.trainer_variants import NAMES, WRAPPED, Variant, names_in


def converted(source: Path, variant: Variant, target: Path) -> tuple[dict[str, torch.Tensor], object]:
    ckptgrow.convert(source, target, "huggingface", config=variant.config, dialect=variant.dialect)
    optimizer = target / "optimizer.pt"
    return load_file(target / "model.safetensors"), torch.load(optimizer) if optimizer.is_file() else None


@pytest.mark.sampled(8)
@pytest.mark.parametrize("trainer", WRAPPED)
@pytest.mark.parametrize("word", NAMES)
def test_modules_that_are_wrapped_are_those_without_and_are_written_with_their_wrappers(
    tmp_path: Path, trainer: str, word: str
) -> None:
    plain, wrapped = WRAPPED[trainer](str), WRAPPED[trainer](NAMES[word])
    (tmp_path / "plain").mkdir()
    expected = converted(plain.make(tmp_path / "plain"), plain, tmp_path / "expected")
    source = wrapped.make(tmp_path)
    assert_same(converted(source, wrapped, tmp_path / "found"), expected)
    target = tmp_path / f"grown{source.suffix}"
    ckptgrow.depth(source, target, factor=2, request=ckptgrow.StateRequest(config=wrapped.config))
    report = ckptgrow.verify(source, target, config=wrapped.config)
    assert report.passed and report.moments is not None
    assert names_in(source) < names_in(target)
