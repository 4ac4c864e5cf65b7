"""Filling files: every byte where it belongs, rows that repeat made once, the checksums those of the bytes."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptgrow.errors import CheckpointError
from ckptgrow.progress import silent
from ckptgrow.storage.files.tensor_writing import Extent, FileLayout, fill
from ckptgrow.storage.tensors import CHUNK_BYTES, InMemory, LazyTensor, Repeated, Zeros


class Counted(InMemory):
    """A tensor that counts the rows it was asked for."""

    made: int = 0

    def rows(self, start: int, stop: int) -> torch.Tensor:
        object.__setattr__(self, "made", self.made + stop - start)
        return super().rows(start, stop)


class Cut(InMemory):
    """A tensor with fewer rows than its shape says."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return super().rows(start, stop)[1:]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_any_rows_of_a_repeated_tensor_are_those_of_the_whole(num_rows: int, times: int, data: st.DataObject) -> None:
    rows = torch.randn(num_rows, 3)
    repeated, whole = Repeated(InMemory(rows), times), rows.repeat(times, 1)
    assert repeated.shape == tuple(whole.shape)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    assert torch.equal(repeated.rows(start, stop), whole[start:stop])


def test_several_files_are_filled_with_right_checksums_and_repeated_rows_are_made_once(tmp_path: Path) -> None:
    length = CHUNK_BYTES // 4 + 3  # three rows are three chunks
    numbers, whole = torch.arange(7.0), torch.arange(3.0 * length).reshape(3, length)
    counted = Counted(whole)
    tensors: dict[str, list[tuple[LazyTensor, bytes]]] = {
        "one": [(InMemory(numbers), numbers.numpy().tobytes()), (Zeros((5,), torch.float64), bytes(40))],
        "two": [(Repeated(counted, 3), np.tile(whole.numpy(), (3, 1)).tobytes())],
        "three": [],
    }
    checksums: dict[str, list[int]] = {}
    outlines: list[FileLayout] = []
    for name, entries in tensors.items():
        (tmp_path / name).write_bytes(b"head" + bytes(sum(len(data) for _, data in entries)) + b"tail")
        places, offset = list[Extent](), 4
        for tensor, data in entries:
            places.append(Extent(tensor, offset))
            offset += len(data)
        outlines.append(
            FileLayout(tmp_path / name, places, lambda _, found, name=name: checksums.update({name: list(found)}))
        )
    told: list[int] = []
    fill(outlines, told.append)
    assert counted.made == 3
    assert sum(told) == sum(len(data) for entries in tensors.values() for _, data in entries)
    for name, entries in tensors.items():
        expected = b"".join(data for _, data in entries)
        assert (tmp_path / name).read_bytes() == b"head" + expected + b"tail"
        assert checksums[name] == [zlib.crc32(data) for _, data in entries]


def test_the_same_rows_at_several_places_are_made_once(tmp_path: Path) -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    counted, told, sums = Counted(rows), list[int](), list[int]()
    (tmp_path / "file").write_bytes(bytes(24 * 5 + 3))
    places = [Extent(Repeated(counted, 2), 51, (0,))]
    fill([FileLayout(tmp_path / "file", places, lambda _, found: sums.extend(found))], told.append)
    data = rows.numpy().tobytes()
    assert (tmp_path / "file").read_bytes() == 2 * data + bytes(3) + 2 * data + bytes(24)
    assert counted.made == 3 and sum(told) == 4 * len(data) and sums == [zlib.crc32(2 * data)]


def test_filling_leaves_torchs_threads_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        (tmp_path / "file").write_bytes(bytes(2 * CHUNK_BYTES))
        fill([FileLayout(tmp_path / "file", [Extent(InMemory(torch.ones(CHUNK_BYTES // 2)), 0)])], silent(8))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_rows_that_are_missing_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8))
    with pytest.raises(CheckpointError, match="wrote 4 bytes of a tensor, expected 8"):
        fill([FileLayout(tmp_path / "file", [Extent(Cut(torch.ones(2)), 0)])], silent(8))
