"""The simulation of large states: its figures are of the real pipeline."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import ckptgrow
from benchmarks import simulate
from ckptgrow.storage.tensors import num_bytes
from ckptgrow.storage.tree import tensors_in

TINY = (2, 32, 64, 4, 2, 64)


def test_every_byte_of_the_output_is_counted_and_none_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(simulate.SIZES, "tiny", TINY)
    phases = simulate.Phases(None)
    assert simulate.simulated("tiny", tmp_path, "split", phases)
    real = ckptgrow.width(simulate.source("tiny"), tmp_path / "real.ckpt")
    assert (tmp_path / "grown.ckpt").stat().st_size == (tmp_path / "real.ckpt").stat().st_size
    grown = ckptgrow.width(simulate.source("tiny"), None).grown
    assert grown is not None
    assert real.record["source_sha256"]
    distinct = {id(one): one for _, one in tensors_in(grown.tree)}.values()
    expected = sum(num_bytes(one) for one in distinct)
    assert phases.num_bytes == phases.total == expected
    assert list(phases.told()) == ["plan", "layout", "data"]


def test_a_simulation_ends_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(simulate.SIZES, "tiny", TINY)
    phases = simulate.Phases(1e-9)
    assert not simulate.simulated("tiny", tmp_path, "split", phases)
    assert 0 < phases.num_bytes < phases.total
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits of files here")
def test_a_file_longer_than_the_file_system_holds_is_told_in_one_line(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[2] / "fixtures" / "gpt2-tiny.ckpt"
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)); "
        f"from ckptgrow.cli import main; main(['width', {str(fixture)!r}, {str(tmp_path / 'grown.ckpt')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "grown.ckpt: could not be written (" in done.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())
