"""The first two axes of a tensor as one: the same rows, read a few at a time where the tensor lies so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckptgrow.state.pieces import Stacked
from ckptgrow.storage.tensors import InMemory, LazyTensor, Made, Stored, merged, whole


def stored(path: Path, tensor: torch.Tensor, gap: int = 0) -> LazyTensor:
    """A tensor in a file, with rows between its matrices that are not its own."""
    path.write_bytes(torch.nn.functional.pad(tensor, (0, 0, 0, gap)).numpy().tobytes())
    _, height, width = tensor.shape
    stride = ((height + gap) * width, width, 1)
    return Stored(path=path, offset=0, shape=tuple(tensor.shape), dtype=tensor.dtype, stride=stride)


def in_pieces(path: Path, tensor: torch.Tensor) -> LazyTensor:
    return Stacked(tuple((InMemory(one[:2]), InMemory(one[2:])) for one in tensor))


KINDS: dict[str, Callable[[Path, torch.Tensor], LazyTensor]] = {
    "stored": stored,
    "stored with gaps": lambda path, tensor: stored(path, tensor, gap=3),
    "in pieces": in_pieces,
    "made": lambda path, tensor: Made(tuple(tensor.shape), tensor.dtype, lambda start, stop: tensor[start:stop]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_all_matrices_follow_each_other(tmp_path: Path, kind: str) -> None:
    tensor = torch.randn(3, 5, 4)
    lazy = KINDS[kind](tmp_path / "tensor.bin", tensor)
    found, expected = merged(lazy), tensor.flatten(0, 1)
    assert found.shape == (15, 4) and torch.equal(whole(found), expected)
    for start, stop in ((0, 1), (4, 6), (2, 13), (14, 15)):
        assert torch.equal(found.rows(start, stop), expected[start:stop])


def test_a_few_rows_of_large_matrices_are_read_alone() -> None:
    reads = list[tuple[int, int]]()

    def rows(start: int, stop: int) -> torch.Tensor:
        reads.append((start, stop))
        return torch.zeros(stop - start, 4)

    part = Made((1000, 4), torch.float32, rows)
    merged(Stacked(((part, part), (part, part)))).rows(1998, 2003)
    assert reads == [(998, 1000), (0, 3)]
