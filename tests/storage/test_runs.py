"""Parts of flat buffers as tensors, and tensors as parts of buffers, each read no further than asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptgrow.storage.archives import archive
from ckptgrow.storage.runs import Span, of_runs
from ckptgrow.storage.tensors import InMemory, LazyTensor, Made, Stored, whole


def spied(tensor: torch.Tensor, asked: list[tuple[int, int]]) -> LazyTensor:
    def rows(start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return tensor[start:stop]

    return Made(tuple(tensor.shape), tensor.dtype, rows)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(1, 4), st.data())
def test_rows_of_a_tensor_made_of_runs_are_those_of_all_runs_in_a_row(
    lengths: list[int], width: int, data: st.DataObject
) -> None:
    flats = [torch.arange(10.0) + 100 * index for index in range(len(lengths))]
    runs = [Span(InMemory(flat), 2, length) for flat, length in zip(flats, lengths, strict=True)]
    padding = -sum(lengths) % width
    parts = [flat[2 : 2 + length] for flat, length in zip(flats, lengths, strict=True)]
    expected = torch.cat([*parts, torch.zeros(padding)])
    made = of_runs([*runs, Span(None, 0, padding)], (len(expected) // width, width), torch.float32)
    start = data.draw(st.integers(0, made.shape[0]))
    stop = data.draw(st.integers(start, made.shape[0]))
    assert torch.equal(made.rows(start, stop), expected.reshape(-1, width)[start:stop])


def test_only_the_rows_in_which_elements_lie_are_read() -> None:
    asked: list[tuple[int, int]] = []
    matrix = torch.arange(1000.0).reshape(100, 10)
    flat = of_runs([Span(None, 0, 5), Span(spied(matrix, asked), 13, 900)], (905,), torch.float32)
    assert torch.equal(flat.rows(25, 47), matrix.reshape(-1)[33:55])
    assert asked == [(3, 6)]


def test_a_part_of_a_stored_buffer_is_stored_itself(tmp_path: Path) -> None:
    torch.save(torch.arange(24.0), tmp_path / "flat.pt")
    flat = archive.read(tmp_path / "flat.pt")
    assert isinstance(flat, Stored)
    part = of_runs([Span(flat, 6, 12)], (4, 3), torch.float32)
    assert isinstance(part, Stored) and part.offset == flat.offset + 6 * 4
    assert torch.equal(part.rows(1, 3), torch.arange(9.0, 15.0).reshape(2, 3))


@pytest.mark.parametrize("start", [0, 3])
def test_a_number_is_one_element(start: int) -> None:
    assert whole(of_runs([Span(InMemory(torch.arange(5.0)), start, 1)], (), torch.float32)) == start
    assert torch.equal(
        whole(of_runs([Span(InMemory(torch.tensor(2.0)), 0, 1)], (1,), torch.float32)), torch.tensor([2.0])
    )
