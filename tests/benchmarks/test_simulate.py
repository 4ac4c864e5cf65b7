"""The simulation of large states: its figures are of the real pipeline."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import ckptgrow
from benchmarks import simulate
from ckptgrow.formats import known_formats
from ckptgrow.progress import silent
from ckptgrow.storage.tensors import num_bytes
from ckptgrow.storage.tree import tensors_in

TINY = (2, 32, 64, 4, 2, 64)


@pytest.mark.parametrize("kind", get_args(simulate.Kind))
def test_every_byte_of_the_output_is_counted_and_none_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: simulate.Kind
) -> None:
    monkeypatch.setitem(simulate.SIZES, "tiny", TINY)
    name = simulate.TARGETS[kind]
    for part in ("count", "write"):
        (tmp_path / part).mkdir()
    phases = simulate.Phases(None)
    assert simulate.simulated("tiny", kind, tmp_path / "count" / name, "split", phases)
    real = ckptgrow.width(simulate.source("tiny", kind), tmp_path / "write" / name)
    assert _lengths(tmp_path / "count") == _lengths(tmp_path / "write")
    grown = ckptgrow.width(simulate.source("tiny", kind), None).grown
    assert grown is not None
    assert real.record["source_sha256"]
    distinct = {id(one): one for _, one in tensors_in(grown.tree)}.values()
    expected = sum(num_bytes(one) for one in distinct)
    assert phases.num_bytes == phases.total == expected
    assert list(phases.told()) == ["plan", "layout", "data"]


def _lengths(directory: Path) -> dict[str, int]:
    """The lengths of all files, by their paths inside."""
    files = (one for one in directory.rglob("*") if one.is_file())
    return {str(one.relative_to(directory)): one.stat().st_size for one in files}


@pytest.mark.parametrize("kind", get_args(simulate.Kind))
def test_a_virtual_source_grows_into_what_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: simulate.Kind
) -> None:
    monkeypatch.setitem(simulate.SIZES, "tiny", TINY)
    small, grown = (tmp_path / f"{part}-{simulate.TARGETS[kind]}" for part in ("small", "large"))
    known_formats.write_checkpoint(simulate.source("tiny", kind), small, silent, force=False)
    ckptgrow.width(small, grown)
    assert ckptgrow.verify(small, grown).passed


@pytest.mark.slow
def test_several_processes_count_every_byte_once(tmp_path: Path) -> None:
    words = ["--size", "1M", "--kind", "dcp", "--seconds", "0", "--directory", str(tmp_path)]
    for count in ("1", "3"):
        line = [sys.executable, str(simulate.__file__), *words, "--processes", count]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert "(100.0%)" in done.stdout
    assert not any(tmp_path.iterdir())


def test_a_simulation_ends_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(simulate.SIZES, "tiny", TINY)
    phases = simulate.Phases(1e-9)
    assert not simulate.simulated("tiny", "ckpt", tmp_path / "grown.ckpt", "split", phases)
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
