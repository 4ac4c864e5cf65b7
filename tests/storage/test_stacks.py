"""Large rows of one tensor: read as tensors of their own, a few rows at a time, and written one after the other."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import save

from ckptgrow.dialects.forms import LastRead
from ckptgrow.storage.dcp_io import dcp_reading
from ckptgrow.storage.files.tensor_writing import Extent, FileLayout, fill
from ckptgrow.storage.stacks import Stack, is_divisible, row_of
from ckptgrow.storage.tensors import CHUNK_BYTES, InMemory, LazyTensor, Made, Repeated, Stored, Zeros, whole


def stored(path: Path, tensor: torch.Tensor) -> LazyTensor:
    (path / "tensor.bin").write_bytes(tensor.numpy().tobytes())
    return Stored(
        path=path / "tensor.bin", offset=0, shape=tuple(tensor.shape), dtype=tensor.dtype, stride=tensor.stride()
    )


def distributed(path: Path, tensor: torch.Tensor) -> LazyTensor:
    save({"tensor": tensor}, checkpoint_id=path / "dcp", no_dist=True)
    found = dcp_reading.read(path / "dcp" / ".metadata")["tensor"]
    assert not isinstance(found, dict | list)
    return found


def made(path: Path, tensor: torch.Tensor) -> LazyTensor:
    return Made(tuple(tensor.shape), tensor.dtype, lambda start, stop: tensor[start:stop])


KINDS: dict[str, Callable[[Path, torch.Tensor], LazyTensor]] = {
    "stored": stored,
    "distributed": distributed,
    "stack": lambda path, tensor: Stack([InMemory(one) for one in tensor]),
    "made": made,
    "last read": lambda path, tensor: LastRead(made(path, tensor)),
}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_a_tensor_of_its_own(tmp_path: Path, kind: str) -> None:
    tensor = torch.randn(3, 5, 2, 4)
    lazy = KINDS[kind](tmp_path, tensor)
    assert lazy.shape == tensor.shape and torch.equal(whole(lazy), tensor)
    assert is_divisible(lazy) == (kind != "made")
    for index in range(3):
        row = row_of(lazy, index)
        assert row.shape == (5, 2, 4) and row.dtype == torch.float32
        assert torch.equal(row.rows(1, 3), tensor[index, 1:3]) and torch.equal(whole(row), tensor[index])
        assert torch.equal(whole(row_of(row, 4)), tensor[index, 4])


def test_a_stack_is_written_a_few_rows_at_a_time_and_what_repeats_is_made_once(tmp_path: Path) -> None:
    reads: list[int] = []

    def counted(tensor: torch.Tensor) -> LazyTensor:
        def rows(start: int, stop: int) -> torch.Tensor:
            reads.append(stop - start)
            return tensor[start:stop]

        return Made(tuple(tensor.shape), tensor.dtype, rows)

    width = CHUNK_BYTES // 16  # four rows are a chunk
    first, half = torch.randn(12, width), torch.randn(6, width)
    stack = Stack([counted(first), Repeated(counted(half), 2), Zeros((12, width), torch.float32)])
    expected = torch.stack([first, half.repeat(2, 1), torch.zeros(12, width)]).numpy().tobytes()
    (tmp_path / "file").write_bytes(bytes(3 + 2 * len(expected)))
    sums, told = list[int](), list[int]()
    place = Extent(stack, 3, (3 + len(expected),))
    fill([FileLayout(tmp_path / "file", [place], lambda _, found: sums.extend(found))], told.append)
    assert (tmp_path / "file").read_bytes() == bytes(3) + 2 * expected
    assert sums == [zlib.crc32(expected)] and sum(told) == 2 * len(expected)
    assert sum(reads) == 18 and max(reads) == 4
