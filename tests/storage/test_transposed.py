"""Matrices with their axes exchanged: the same entries, transposed no more often than they must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ckptgrow.growth.tensors.grown_tensors import checked_finite, gathered, own, scaled
from ckptgrow.spaces.gather import BlockWeights, Gather, GrownAxis, diagonal, tile
from ckptgrow.spaces.growth import Growth
from ckptgrow.storage import transposed as module
from ckptgrow.storage.tensors import InMemory, chunks, whole
from ckptgrow.storage.transposed import Transposed, transposed


@pytest.mark.parametrize("band_bytes", [1, 64, 2**20])
def test_columns_are_rows_in_bands_of_any_size(monkeypatch: pytest.MonkeyPatch, band_bytes: int) -> None:
    monkeypatch.setattr(module, "BAND_BYTES", band_bytes)
    matrix = torch.randn(7, 5)
    found = [Transposed(InMemory(matrix)).rows(*some) for some in chunks(InMemory(matrix.t().contiguous()), 40)]
    assert torch.equal(torch.cat(found), matrix.t())


@pytest.mark.parametrize("weights", [None, tile, diagonal])
def test_what_grew_from_a_transposed_matrix_is_transposed_back_without_passing_its_rows(
    weights: BlockWeights | None,
) -> None:
    theirs = InMemory(torch.randn(4, 6, dtype=torch.float64))
    gather = gather_of(6, 4, weights)
    grown = scaled(own(gathered(checked_finite(transposed(theirs), "here"), gather)), 0.3)
    expected = torch.from_numpy(gather_matrix(gather, theirs.tensor.t().numpy()) * 0.3).t()
    found = transposed(grown)
    assert not isinstance(found, Transposed)
    torch.testing.assert_close(whole(found), expected, rtol=0, atol=1e-15)  # one rounding of a product
    assert torch.equal(whole(Transposed(grown)), whole(found))
    assert torch.equal(found.rows(3, 5), whole(found)[3:5])


def test_a_matrix_transposed_twice_is_the_first_object() -> None:
    matrix = InMemory(torch.randn(3, 2))
    assert transposed(transposed(matrix)) is matrix


def gather_of(num_in: int, num_out: int, weights: BlockWeights | None) -> Gather:
    axes = (GrownAxis("in", copies(num_in, 2)), GrownAxis("out", copies(num_out, 2)))
    scales = (np.full(2 * num_in, 0.7), np.linspace(1, 1, 2 * num_out))
    return Gather(axes, scales, weights)


def copies(size: int, times: int) -> Growth:
    ones = np.ones(size * times)
    return Growth(source=np.tile(np.arange(size), times), write=ones, read=ones / times, num_old=size)


def gather_matrix(gather: Gather, old: np.ndarray) -> np.ndarray:
    """The definition, entry by entry."""
    made = np.zeros(gather.shape)
    rows, columns = (axis.growth for axis in gather.axes)
    for row in range(gather.shape[0]):
        for column in range(gather.shape[1]):
            factor = gather.scales[0][row] * gather.scales[1][column]
            if gather.block_weights is not None:
                factor *= gather.block_weights(column // columns.num_old, row // rows.num_old, 2)
            made[row, column] = factor * old[rows.source[row], columns.source[column]]
    return made


def test_places_that_are_read_in_turn_cost_no_more_bands_than_read_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BAND_BYTES", 4 * 4 * 10)  # ten columns of four rows
    matrix, reads = torch.randn(4, 60), list[int]()

    class Counted(InMemory):
        def rows(self, start: int, stop: int) -> torch.Tensor:
            reads.append(start)
            return super().rows(start, stop)

    turned = Transposed(Counted(matrix))
    for start in range(0, 20, 5):  # three copies of a block, as verification reads them
        for copy in (0, 20, 40):
            found = turned.rows(copy + start, copy + start + 5)
            assert torch.equal(found, matrix.t()[copy + start : copy + start + 5])
    assert len(reads) == 6
