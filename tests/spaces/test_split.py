"""Dealing weights out to copies: against the definition, on random layouts and growths."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptgrow.spaces.gather import TensorGrowth
from ckptgrow.spaces.growth import Growth, copies, identity, shrunken_copies
from ckptgrow.spaces.layout import parse
from ckptgrow.spaces.split import WHOLE, Split, split_for
from ckptgrow.spaces.turned_split import TurnedSplit

LAYOUTS = (
    "residual <- ffn",
    "ffn -> residual",
    "residual -> (3 heads head)",
    "residual <- (heads head)",
    "experts: residual <- ffn",
    "experts: (2 ffn) <- residual",
    "ffn <- residual row",
)
SIZES = {"residual": 4, "ffn": 5, "heads": 2, "head": 3, "experts": 2, "row": 3}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@st.composite
def growths(draw: st.DrawFn) -> dict[str, Growth]:
    factor = draw(st.integers(2, 5))
    found = {space: identity(size) for space, size in SIZES.items()}
    found["residual"] = draw(st.sampled_from([copies, shrunken_copies]))(4, 4 * factor)
    found["heads"] = copies(2, 2 * factor)
    found["ffn"] = copies(5, draw(st.integers(6, 17)))
    return found


def dealt(split: Split, old: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    rows = split.whole.rows(lambda first, last: old[first:last], start, stop)
    split.deal(rows, start)
    return rows


def split_of(
    layout: str, spaces: dict[str, Growth], seed: int = 0, first_row: int = 0, spread: float = WHOLE
) -> tuple[Split, TensorGrowth]:
    growth = TensorGrowth.of(parse(layout), spaces)
    split = split_for(growth, seed=seed, name="weight", spread=spread, first_row=first_row)
    assert split is not None
    return split, growth


@given(layout=st.sampled_from(LAYOUTS), spaces=growths(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_each_old_weight_lies_with_one_copy_and_none_is_rounded(
    layout: str, spaces: dict[str, Growth], dtype: torch.dtype, seed: int
) -> None:
    split, growth = split_of(layout, spaces, seed)
    old = torch.randn(growth.old_shape, dtype=torch.float64).to(dtype)
    new = dealt(split, old, 0, growth.axes[0].growth.num_new)
    position = next(
        index
        for index, axis in enumerate(growth.axes)
        if axis.role == "in" and axis.growth.num_new > axis.growth.num_old
    )
    expected = old.double()
    for index, axis in enumerate(growth.axes):  # f_out · W at the sources of every other axis
        if index != position:
            scale = axis.growth.write if axis.role != "in" else axis.growth.read
            shape = [1] * old.dim()
            shape[index] = -1
            expected = expected.index_select(index, torch.from_numpy(axis.growth.source))
            expected = expected * torch.from_numpy(scale).reshape(shape)
    read = growth.axes[position].growth
    applied = new.double() * torch.from_numpy(read.write).reshape(
        [-1 if i == position else 1 for i in range(old.dim())]
    )
    total = torch.zeros_like(expected).index_add_(position, torch.from_numpy(read.source), applied)
    has_it = torch.zeros_like(expected).index_add_(position, torch.from_numpy(read.source), (new != 0).double())
    assert torch.equal(has_it, torch.ones_like(has_it))
    rounding = 4 * torch.finfo(dtype).eps
    assert bool(((total - expected).abs() <= rounding * expected.abs()).all())
    if all(np.all(np.log2(axis.growth.write) % 1 == 0) for axis in growth.axes):
        exact = new.double().abs()
        assert torch.equal(total, expected) and torch.equal(exact.to(dtype).double(), exact)


@given(layout=st.sampled_from(LAYOUTS), spaces=growths(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_rows_in_any_order_are_those_of_the_whole(
    layout: str, spaces: dict[str, Growth], data: st.DataObject
) -> None:
    split, growth = split_of(layout, spaces)
    old = torch.randn(growth.old_shape)
    size = growth.axes[0].growth.num_new
    new = dealt(split, old, 0, size)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    assert torch.equal(dealt(split, old, start, stop), new[start:stop])


@given(
    layout=st.sampled_from(["residual <- ffn", "ffn -> residual", "residual <- (heads head)"]),
    size=st.integers(6, 10),
    spread=st.sampled_from([WHOLE, 1.0]),
    first_row=st.sampled_from([0, 3]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_turned_matrix_is_dealt_as_the_matrix_itself(
    layout: str, size: int, spread: float, first_row: int, data: st.DataObject
) -> None:
    spaces = {space: identity(number) for space, number in SIZES.items()} | {"ffn": copies(5, size)}
    spaces |= {"heads": copies(2, 4)}
    split, growth = split_of(layout, spaces, first_row=first_row, spread=spread)
    old = torch.randn(growth.old_shape)
    expected = dealt(split, old, 0, growth.axes[0].growth.num_new).t()
    turned, place = TurnedSplit(split), 0
    assert split.has_a_bit_each
    while place < len(expected):
        stop = data.draw(st.integers(place + 1, len(expected)))
        rows = split.whole.turned.rows(lambda first, last: old.t()[first:last], place, stop)
        turned.deal(rows, place)
        assert torch.equal(rows, expected[place:stop])
        place = stop


@pytest.mark.parametrize("num_copies", [2, 3, 5, 16])
@pytest.mark.parametrize("layout", ["residual <- ffn", "ffn -> residual"])
def test_every_copy_gets_an_equal_share_and_no_two_rows_deal_alike(layout: str, num_copies: int) -> None:
    spaces = {"residual": copies(64, 128), "ffn": copies(96, 96 * num_copies)}
    split, growth = split_of(layout, spaces)
    new = dealt(split, torch.ones(growth.old_shape), 0, growth.axes[0].growth.num_new)
    by_output = new if layout.startswith("residual") else new.T
    shares = (by_output != 0).double().reshape(128, num_copies, 96).mean((0, 2))
    assert bool(((shares - 1 / num_copies).abs() < 5 * (1 / num_copies / (128 * 96)) ** 0.5).all())
    assert len({tuple(row.tolist()) for row in by_output}) == 128


def shares_of(num_copies: int, spread: float, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Old weights of all sizes, those beside the smallest number too, and each copy's shares, first axis the copies."""
    spaces = {"residual": copies(3, 6), "ffn": copies(16, 16 * num_copies)}
    split, growth = split_of("residual <- ffn", spaces, seed, spread=spread)
    generator = torch.Generator().manual_seed(seed)
    least = -14 if dtype == torch.float16 else -100
    exponents = torch.randint(least - 8, 12, growth.old_shape, generator=generator)
    old = torch.ldexp(torch.randn(growth.old_shape, dtype=torch.float64, generator=generator), exponents).to(dtype)
    return old, dealt(split, old, 0, 6).reshape(2, 3, num_copies, 16).permute(2, 0, 1, 3)


@given(
    spread=st.floats(0.001, 1.5),
    dtype=st.sampled_from(DTYPES),
    num_copies=st.sampled_from([2, 3, 5]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_shares_of_any_spread_sum_to_the_weight_to_the_bit(
    spread: float, dtype: torch.dtype, num_copies: int, seed: int
) -> None:
    drawn = (1 - 2 * spread) / num_copies + 2 * spread
    if num_copies > 2 and not 0.5 <= drawn <= 2:
        return
    old, shares = shares_of(num_copies, spread, dtype, seed)
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for row in shares.flatten(1).T.tolist():
        total = sum(map(Fraction, row))
        off = min(abs(total - Fraction(one)) for one in old.flatten().tolist())
        assert off <= (0 if num_copies == 2 else num_copies * tiny)  # halves of the smallest numbers are none


@given(
    spread=st.floats(0.001, 1.5), dtype=st.sampled_from(DTYPES), num_copies=st.integers(2, 9), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_one_copy_has_the_drawn_share_and_all_others_have_equal_ones(
    spread: float, dtype: torch.dtype, num_copies: int, seed: int
) -> None:
    old, shares = shares_of(num_copies, spread, dtype, seed)
    least = (1 - 2 * spread) / num_copies
    weight = old.double().expand_as(shares)
    left = 4 * torch.finfo(dtype).eps * weight.abs() + 4 * torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    is_drawn = (shares.double() - (least + 2 * spread) * weight).abs() <= left
    is_other = (shares.double() - least * weight).abs() <= left
    assert bool((is_drawn | is_other).all())
    if 2 * spread > 100 * torch.finfo(dtype).eps:
        is_large = weight[0].abs() > 1e3 * torch.finfo(dtype).tiny
        assert bool((is_drawn & ~is_other).sum(0)[is_large].eq(1).all())


def test_a_piece_deals_as_its_rows_of_the_whole() -> None:
    spaces = {"experts": identity(3), "ffn": copies(5, 10), "residual": copies(4, 8)}
    split, growth = split_of("experts: (2 ffn) <- residual", spaces)
    old = torch.randn(growth.old_shape)
    new = dealt(split, old, 0, 3)
    piece, _ = split_of("ffn <- residual", spaces, first_row=2 * 20 + 10)
    assert torch.equal(dealt(piece, old[2, 5:], 0, 10), new[2, 10:])


def test_infinities_and_signs_leave_no_trace_where_another_copy_has_the_weight() -> None:
    split, _ = split_of("residual <- ffn", {"residual": identity(2), "ffn": copies(2, 4)})
    new = dealt(split, torch.tensor([[-1.0, torch.inf], [torch.nan, -2.0]]), 0, 2)
    zeros = new[new == 0]
    assert len(zeros) == 4 and not bool(torch.signbit(zeros).any())


def test_another_seed_and_another_name_deal_otherwise() -> None:
    spaces = {"residual": copies(8, 16), "ffn": copies(8, 16)}
    old, found = torch.ones(8, 8), list[torch.Tensor]()
    growth = TensorGrowth.of(parse("residual <- ffn"), spaces)
    for seed, name in ((0, "a"), (1, "a"), (0, "b")):
        split = split_for(growth, seed=seed, name=name)
        assert split is not None
        found.append(dealt(split, old, 0, 16))
    assert not any(torch.equal(found[i], found[j]) for i in range(3) for j in range(i))
