"""Coordinates selected run by run are those that torch's own index_select gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptgrow.spaces.selection import selected


@st.composite
def runs(draw: st.DrawFn) -> list[int]:
    """Indices below 40, in runs of 1 to 40 that follow one another."""
    bounds = draw(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=5))
    return [index for first, second in bounds for index in range(min(first, second), max(first, second) + 1)]


@given(runs(), st.sampled_from([0, 1, -1]))
def test_any_runs_are_what_index_select_gives(indices: list[int], axis: int) -> None:
    tensor = torch.arange(1600.0, dtype=torch.float64).reshape(40, 40)
    index = np.array(indices, dtype=np.int64)
    assert torch.equal(selected(tensor, axis, index), tensor.index_select(axis, torch.from_numpy(index)))


def test_all_coordinates_in_order_are_no_copy() -> None:
    tensor = torch.zeros(32, 3)
    assert selected(tensor, 0, np.arange(32)).data_ptr() == tensor.data_ptr()


def test_a_coordinate_outside_is_refused() -> None:
    with pytest.raises(RuntimeError):
        selected(torch.zeros(32), 0, np.arange(33))
