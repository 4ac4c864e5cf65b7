"""Writing past the page cache: the same bytes wherever runs begin and end, and whatever the file system refuses."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptgrow.storage.files import direct_writing
from ckptgrow.storage.files.direct_writing import BLOCK, GATHERED, SHORTEST, opened

Write = Callable[[int, memoryview, int], int]

SOME = np.random.default_rng(0).integers(0, 256, 3 * GATHERED, np.uint8).tobytes()
DISTANCES = st.one_of(st.just(0), st.integers(0, 2 * BLOCK))


def written(path: Path, runs: list[tuple[list[int], bytes, int]]) -> bytes:
    """What stands in a file of zeros after runs of (positions, data, bytes a piece)."""
    end = max(start + len(data) for positions, data, _ in runs for start in positions) + 5
    path.write_bytes(bytes(end))
    with path.open("r+b") as file, opened([(path, file)]) as (output,):
        for positions, data, piece in runs:
            run = output.run(positions, len(data))
            for start in range(0, len(data), piece):
                run.write(memoryview(data)[start : start + piece])
            run.end()
    return path.read_bytes()


def expected(runs: list[tuple[list[int], bytes, int]], length: int) -> bytes:
    whole = bytearray(length)
    for positions, data, _ in runs:
        for start in positions:
            whole[start : start + len(data)] = data
    return bytes(whole)


@settings(max_examples=40, deadline=None)
@given(DISTANCES, st.integers(-BLOCK - 1, 2 * GATHERED), st.lists(DISTANCES, max_size=5), st.integers(1, SHORTEST * 3))
def test_runs_stand_where_they_belong_whatever_their_distance_from_a_block(
    tmp_path_factory: pytest.TempPathFactory, start: int, more: int, gaps: list[int], piece: int
) -> None:
    data = SOME[: SHORTEST + more]
    positions = [start]
    for gap in gaps:
        positions.append(positions[-1] + len(data) + gap)
    last = positions[-1] + len(data)
    runs = [(positions, data, max(piece, 1000)), ([last + 3], SOME[-SHORTEST - 7 :], SHORTEST)]
    found = written(tmp_path_factory.mktemp("runs") / "file", runs)
    assert found == expected(runs, len(found))


RUNS = [([10, 10 + GATHERED + 99], SOME[:GATHERED], 700_001), ([2 * GATHERED + 4096], SOME[GATHERED:], 2**20)]


def is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def with_direct_writes(write: Write, otherwise: Callable[[memoryview, int], int]) -> Write:
    """A pwrite whose direct writes, after the first, are done otherwise."""
    seen: list[int] = []

    def tampered(descriptor: int, data: memoryview, position: int) -> int:
        if is_direct(descriptor):
            seen.append(position)
            if len(seen) > 1:
                return otherwise(data, position)
        return write(descriptor, data, position)

    return tampered


def refuse(number: int) -> int:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_direct_writes_gets_the_bytes_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "pwrite", with_direct_writes(os.pwrite, lambda *_: refuse(number)))
    found = written(tmp_path / "file", RUNS)
    assert found == expected(RUNS, len(found))


def test_a_file_system_that_opens_no_file_directly_gets_the_bytes_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_open = os.open

    def tampered(path: Path, flags: int, *mode: int) -> int:
        return refuse(errno.EINVAL) if flags & os.O_DIRECT else true_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", tampered)
    found = written(tmp_path / "file", RUNS)
    assert found == expected(RUNS, len(found))


@pytest.mark.parametrize("amount", [BLOCK, 3 * BLOCK + 512])
def test_short_direct_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amount: int) -> None:
    write = os.pwrite

    def in_part(data: memoryview, position: int) -> int:
        with (tmp_path / "file").open("r+b") as file:
            return write(file.fileno(), data[:amount], position)

    monkeypatch.setattr(os, "pwrite", with_direct_writes(write, in_part))
    found = written(tmp_path / "file", RUNS)
    assert found == expected(RUNS, len(found))


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", with_direct_writes(os.pwrite, lambda *_: refuse(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "file", RUNS)


def test_room_is_asked_for_before_and_a_disk_without_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def without_room(descriptor: int, mode: int, position: Any, length: Any) -> int:
        asked.append(length.value)
        ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr(direct_writing, "_FALLOCATE", without_room)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "file", RUNS)
    assert asked == [GATHERED]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_gives_no_room_before_gets_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: Any) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(direct_writing, "_FALLOCATE", refused)
    found = written(tmp_path / "file", RUNS)
    assert found == expected(RUNS, len(found))


def test_long_runs_are_written_directly_and_short_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    try:
        os.close(os.open(tmp_path / "file", os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct writes")
    direct: list[int] = []
    write = os.pwrite

    def counted(descriptor: int, data: memoryview, position: int) -> int:
        if is_direct(descriptor):
            direct.append(len(data))
        return write(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", counted)
    written(tmp_path / "file", [([0], SOME[: SHORTEST - 1], SHORTEST)])
    assert not direct
    written(tmp_path / "file", [([0], SOME, SHORTEST)])
    assert sum(direct) == len(SOME)
