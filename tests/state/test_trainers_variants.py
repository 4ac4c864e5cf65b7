"""A trainer's file is read and grown as its options, wrappers and habits make it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ckptgrow
from ckptgrow.cli import run
from tests.helpers.lightning_files import assert_same
from tests.helpers.trainer_variants import NAMES, REFUSED, WEIGHTS, WRAPPED, Variant, names_in


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


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_what_a_trainer_saves_in_another_way_grows(tmp_path: Path, name: str, operator: str) -> None:
    variant = WEIGHTS[name]
    source = variant.make(tmp_path)
    target = tmp_path / f"grown{source.suffix}"
    request = ckptgrow.StateRequest(config=variant.config)
    done = getattr(ckptgrow, operator)(source, target, factor=2, request=request)
    report = ckptgrow.verify(source, target, config=variant.config)
    assert report.passed and (report.moments is not None) == variant.has_optimizer
    assert variant.has_optimizer or any("no optimizer state" in one for one in done.notes)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_so_is_refused_in_one_line_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, told = REFUSED[name]
    (tmp_path / "run").mkdir()
    source = make(tmp_path / "run")
    assert run(["depth", str(source), str(tmp_path / f"grown{source.suffix if source.is_file() else ''}")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
