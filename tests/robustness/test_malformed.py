"""The corpus of malformed checkpoints: exit 2, one line that names the file, nothing written, no code run."""

from __future__ import annotations

import importlib.util
import resource
from pathlib import Path
from types import ModuleType

import pytest

from ckptgrow.cli import run
from tests.helpers.paths import ROOT


def corpus_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_malformed", ROOT / "fixtures" / "malformed" / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = corpus_script()
NAMES = [*SCRIPT.FILES, *SCRIPT.WEIGHTS, *SCRIPT.DIRECTORIES]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpus") / "corpus"
    SCRIPT.make(directory)
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_a_malformed_checkpoint_is_refused_in_one_line(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    code = run(["width", str(corpus / name), str(tmp_path / "out")])
    output = capsys.readouterr()
    assert code == 2 and output.out == "", output
    lines = output.err.strip().splitlines()
    assert len(lines) == 1 and name in lines[0] and len(lines[0]) < 1000, output.err
    assert not list(tmp_path.iterdir()), "something was written or run"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 300 * 2**10


def test_the_corpus_is_made_of_checkpoints_that_would_grow(tmp_path: Path) -> None:
    import torch

    torch.save(SCRIPT.lightning_tree(SCRIPT.good_model()), tmp_path / "good.ckpt")
    assert run(["width", str(tmp_path / "good.ckpt"), str(tmp_path / "out.ckpt")]) == 0
