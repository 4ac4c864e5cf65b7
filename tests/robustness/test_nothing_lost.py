"""Killed, interrupted, or out of disk: the output is absent or whole, and nothing stays behind."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import ckptgrow
from ckptgrow.cli import Terminated, main, run
from ckptgrow.errors import RequestError
from ckptgrow.storage.files.atomic import appearing
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import save_lightning, trained_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
NUM_KILLS = 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("source") / "small.ckpt", perturbed_gpt2(), num_steps=1)


@pytest.fixture(scope="module")
def directory(source: Path) -> Path:
    ckptgrow.convert(source, source.parent / "small", "huggingface", max_shard_bytes=20_000)
    return source.parent / "small"


def started(work: Callable[[], object]) -> int:
    """Runs in a child process (a fork: torch is loaded already); returns its id."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            work()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 98
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_absent_or_whole(target: Path, whole: Path) -> None:
    if not target.exists():
        return
    if target.is_file():
        assert zipfile.ZipFile(target).testzip() is None
    one, other = ckptgrow.inspect(target), ckptgrow.inspect(whole)
    assert one.num_parameters == other.num_parameters and one.history == other.history


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_killed_at_any_moment_the_output_is_absent_or_whole(
    source: Path, directory: Path, tmp_path: Path, kind: str
) -> None:
    old = source if kind == "file" else directory
    target, whole = (tmp_path / f"{name}{'.ckpt' if kind == 'file' else ''}" for name in ("out", "whole"))
    began = time.monotonic()
    assert ended(started(lambda: main(["width", str(old), str(whole)]))) == 0
    duration = time.monotonic() - began
    moments = random.Random(0)
    partial_seen = 0
    for _ in range(NUM_KILLS):
        child = started(lambda: main(["width", str(old), str(target), "--force"]))
        time.sleep(moments.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        ended(child)
        partial_seen += any(".partial" in one.name for one in tmp_path.iterdir())
        assert_absent_or_whole(target, whole)
    assert partial_seen > 0
    assert run(["width", str(old), str(target), "--force"]) == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([target.name, whole.name])


def test_what_a_killed_run_left_is_cleared_and_what_a_living_one_writes_is_not(source: Path, tmp_path: Path) -> None:
    dead = started(lambda: None)
    ended(dead)
    leftover, directory = tmp_path / f".out.ckpt.{dead}.partial", tmp_path / f".out.ckpt.{dead}.replaced.partial"
    leftover.write_bytes(b"half")
    directory.mkdir()
    living = tmp_path / f".out.ckpt.{os.getppid()}.partial"
    other = tmp_path / f".other.ckpt.{dead}.partial"
    living.write_bytes(b"")
    other.write_bytes(b"")
    ckptgrow.width(source, tmp_path / "out.ckpt")
    assert sorted(tmp_path.iterdir()) == sorted([living, other, tmp_path / "out.ckpt"])


def test_of_another_machine_only_what_has_not_changed_for_a_day_is_cleared(source: Path, tmp_path: Path) -> None:
    """Its processes' numbers say nothing here, where the dead one's may be a living one's."""
    dead = started(lambda: None)
    ended(dead)
    written_to, begun = (tmp_path / f".out.ckpt.{digit * 8}.{dead}.partial" for digit in "01")
    left = tmp_path / f".out.ckpt.{'2' * 8}.{os.getppid()}.partial"
    old, written = tmp_path / f".out.ckpt.{dead}.partial", written_to / "__0_0.distcp"
    for directory in (written_to, begun, left):
        directory.mkdir()
    written.write_bytes(b"half")
    old.write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(written_to, (long_ago, long_ago))
    os.utime(left, (long_ago, long_ago))
    ckptgrow.width(source, tmp_path / "out.ckpt")
    assert sorted(tmp_path.iterdir()) == sorted([written_to, begun, tmp_path / "out.ckpt"])


@pytest.fixture
def slow_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every piece takes a while, so that signals meet the writing."""
    from ckptgrow.storage.files import tensor_writing

    true = tensor_writing.chunks

    def chunks(tensor: object) -> Iterator[tuple[int, int]]:
        for start, stop in true(tensor):  # type: ignore[arg-type]
            time.sleep(0.2)
            yield start, stop

    monkeypatch.setattr(tensor_writing, "chunks", chunks)
    yield


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_and_termination_leave_nothing(
    source: Path, tmp_path: Path, slow_chunks: None, number: signal.Signals, code: int
) -> None:
    target = tmp_path / "out.ckpt"
    child = started(lambda: main(["width", str(source), str(target)]))
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, number)
    assert ended(child) == code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_what_a_signal_makes_fail_in_turn_is_still_that_signal(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: type[BaseException],
    code: int,
) -> None:
    """torch.save's writer raises a RuntimeError of its own where it is left in the middle."""

    def interrupted(*args: object, **kwargs: object) -> None:
        try:
            raise raised
        finally:
            raise RuntimeError("unexpected pos")

    monkeypatch.setattr(torch, "save", interrupted)
    assert run(["width", str(source), str(tmp_path / "out.ckpt")]) == code
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def mounted(directory: Path, num_bytes: int) -> bool:
    """Whether a small file system could be mounted there (this needs privileges)."""
    directory.mkdir()
    options = f"size={num_bytes}".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mount(b"tmpfs", str(directory).encode(), b"tmpfs", 0, options) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB; where mounting is not allowed, files that may not grow beyond that."""
    directory = tmp_path / "disk"
    if mounted(directory, 200 * 1024):
        yield directory
        ctypes.CDLL(None).umount(str(directory).encode())
        return
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 * 1024, old[1]))
    yield directory
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("foreseen", [True, False])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_full_disk_is_one_line_and_nothing_stays(
    source: Path,
    directory: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    foreseen: bool,
) -> None:
    if not foreseen:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 2**40))
    old = source if kind == "file" else directory
    assert run(["width", str(old), str(small_disk / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and ("free" in lines[0] or "space" in lines[0] or "too large" in lines[0])
    assert not list(small_disk.iterdir())


def test_the_history_names_the_sources_sha256_in_every_kind(source: Path, directory: Path, tmp_path: Path) -> None:
    for old in (source, directory):
        out = tmp_path / f"grown-{old.name}"
        done = ckptgrow.width(old, out)
        recomputed = ckptgrow.inspect(old, check=True).sha256
        assert ckptgrow.inspect(out).history[0]["source_sha256"] == recomputed == done.record["source_sha256"]
        assert len(recomputed or "") == 64
    model = perturbed_gpt2()
    with torch.no_grad():
        model.transformer.wpe.weight[3, 3] += 1e-9
    other = save_lightning(tmp_path / "other.ckpt", model)
    assert ckptgrow.inspect(other, check=True).sha256 != ckptgrow.inspect(source, check=True).sha256


def test_check_finds_a_flipped_bit(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copy(source, tmp_path / "copy.ckpt"))
    with zipfile.ZipFile(copy) as archive:
        entry = next(one for one in archive.infolist() if one.filename.endswith("/data/0"))
    data = bytearray(copy.read_bytes())
    data[entry.header_offset + 1000] ^= 1
    copy.write_bytes(data)
    assert run(["inspect", str(copy)]) == 0
    assert run(["inspect", str(copy), "--check"]) == 2
    assert "checksum" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("has_links", [True, False])
def test_of_several_that_write_to_one_place_the_first_to_end_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, has_links: bool
) -> None:
    """All have looked before any of them has written: each but one is refused, and nothing of it stays."""

    def write(partial: Path, words: str) -> None:
        if kind == "directory":
            partial.mkdir()
        (partial / "content" if kind == "directory" else partial).write_text(words)

    def without(source: Path, target: Path) -> None:
        raise PermissionError(1, "no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", without)
    target = tmp_path / "out"
    with pytest.raises(RequestError, match="exists now, written by another"), appearing(target, force=False) as late:
        write(late, "second")
        monkeypatch.setattr(os, "getpid", os.getppid)  # another process, as far as names go
        with appearing(target, force=False) as early:
            write(early, "first")
    content = target / "content" if kind == "directory" else target
    assert content.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_of_several_growths_to_one_place_one_ends_well(
    source: Path, directory: Path, tmp_path: Path, kind: str
) -> None:
    small = source if kind == "file" else directory
    target = tmp_path / small.with_stem("grown").name
    children = [started(lambda: main(["width", str(small), str(target), "--noise", "0"])) for _ in range(4)]
    assert sorted(map(ended, children)) == [0, 2, 2, 2]
    ckptgrow.inspect(target)
    assert list(tmp_path.iterdir()) == [target]
