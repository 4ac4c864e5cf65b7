"""The gather against explicit matrices: x' = F x, δ' = B δ, W' = F_out W B_inᵀ, on random layouts and growths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptgrow.spaces.gather import TensorGrowth, diagonal, tile
from ckptgrow.spaces.growth import Growth, copies, identity, product, shrunken_copies
from ckptgrow.spaces.layout import parse
from ckptgrow.spaces.noise import noise_for

LAYOUTS = (
    "residual <- ffn",
    "ffn -> residual",
    "residual -> (3 heads head)",
    "(heads head + kv head + kv head) <- residual",
    "(heads 3 head) <- residual",
    "experts: (2 ffn) <- residual",
    "residual",
    "gain residual",
    "vocab -> residual",
    "residual <- channel row",
)
SIZES = {"residual": 4, "ffn": 5, "heads": 2, "kv": 1, "head": 3, "vocab": 4, "experts": 2, "channel": 2, "row": 3}


@st.composite
def growths(draw: st.DrawFn) -> dict[str, Growth]:
    factor = draw(st.integers(1, 4))
    found = {space: identity(size) for space, size in SIZES.items()}
    kind = draw(st.sampled_from([copies, shrunken_copies]))
    found["residual"] = kind(4, 4 * factor)
    for space in ("heads", "kv"):
        found[space] = copies(SIZES[space], SIZES[space] * factor)
    found["ffn"] = copies(5, draw(st.integers(5, 17)))
    return found


def matrix(growth: Growth, scale: np.ndarray[Any, Any]) -> torch.Tensor:
    """N' × n, with `scale` at (j, source[j])."""
    dense = np.zeros((growth.num_new, growth.num_old))
    dense[np.arange(growth.num_new), growth.source] = scale
    return torch.from_numpy(dense)


def applied(tensor: torch.Tensor, growth: TensorGrowth, out: str, into: str) -> torch.Tensor:
    """Multiplies every axis by its explicit matrix."""
    for position, axis in enumerate(growth.axes):
        scale = getattr(axis.growth, into if axis.role == "in" else out)
        tensor = torch.movedim(torch.tensordot(matrix(axis.growth, scale), tensor, ([1], [position])), 0, position)
    return tensor


def read_from(tensor: torch.Tensor) -> Any:
    return lambda start, stop: tensor[start:stop].contiguous()


@settings(max_examples=60, deadline=None)
@given(growths(), st.sampled_from(LAYOUTS), st.integers(1, 7))
def test_weights_gradients_and_squares_are_the_products_of_explicit_matrices(
    found: dict[str, Growth], text: str, step: int
) -> None:
    growth = TensorGrowth.of(parse(text), found)
    old = torch.randn(growth.old_shape, dtype=torch.float64)
    squared_factors = applied(torch.ones_like(old), growth, "read", "write") ** 2
    cases = {
        "weight": (growth.weight(tile), applied(old, growth, "write", "read")),
        "gradient": (growth.gradient, applied(old, growth, "read", "write")),
        "square": (growth.square, squared_factors * _spread(old, growth)),
    }
    for name, (gather, expected) in cases.items():
        for start in range(0, gather.shape[0], step):
            stop = min(start + step, gather.shape[0])
            rows = gather.rows(read_from(old), start, stop)
            assert torch.allclose(rows, expected[start:stop], rtol=1e-14, atol=0), (name, text)


def _spread(old: torch.Tensor, growth: TensorGrowth) -> torch.Tensor:
    for position, axis in enumerate(growth.axes):
        old = old.index_select(position, torch.from_numpy(axis.growth.source))
    return old


@settings(max_examples=60, deadline=None)
@given(growths(), st.sampled_from(LAYOUTS))
def test_rows_that_are_made_once_are_every_row_of_the_dense_product(found: dict[str, Growth], text: str) -> None:
    growth = TensorGrowth.of(parse(text), found)
    old = torch.randn(growth.old_shape, dtype=torch.float64)
    cases = {
        "tile": (growth.weight(tile), applied(old, growth, "write", "read")),
        "gradient": (growth.gradient, applied(old, growth, "read", "write")),
    }
    for name, (gather, expected) in cases.items():
        once = gather.once.rows(read_from(old), 0, len(expected) // gather.num_repeats)
        repeated = torch.cat([once] * gather.num_repeats)
        assert torch.allclose(repeated, expected, rtol=1e-14, atol=0), (name, text)


@pytest.mark.parametrize(
    ("text", "num_repeats"),
    [
        ("residual <- ffn", 3),
        ("(heads 3 head) <- residual", 2),
        ("ffn -> residual", 1),  # uneven copies
        ("(heads head + kv head) <- residual", 1),  # the copies of a part follow it, not the whole
        ("vocab -> residual", 1),
    ],
)
def test_only_whole_copies_repeat(text: str, num_repeats: int) -> None:
    found = {space: identity(size) for space, size in SIZES.items()}
    found |= {"residual": copies(4, 12), "heads": copies(2, 4), "kv": copies(1, 2), "ffn": copies(5, 7)}
    growth = TensorGrowth.of(parse(text), found)
    assert growth.gradient.num_repeats == growth.weight(tile).num_repeats == num_repeats


def test_rows_of_diagonal_blocks_do_not_repeat() -> None:
    growth = TensorGrowth.of(parse("out <- in"), {"out": copies(3, 6), "in": copies(4, 8)})
    assert growth.weight(diagonal).num_repeats == 1
    assert growth.weight(tile).num_repeats == growth.gradient.num_repeats == 2


@settings(max_examples=40, deadline=None)
@given(growths(), st.sampled_from(LAYOUTS))
def test_diagonal_differs_from_tile_by_a_term_that_neither_function_nor_gradient_sees(
    found: dict[str, Growth], text: str
) -> None:
    growth = TensorGrowth.of(parse(text), found)
    old = torch.randn(growth.old_shape, dtype=torch.float64)
    everything = growth.weight(tile).shape[0]
    term = growth.weight(diagonal).rows(read_from(old), 0, everything)
    term = term - growth.weight(tile).rows(read_from(old), 0, everything)
    for position, axis in enumerate(growth.axes):
        if axis.role == "in":
            seen = torch.tensordot(term, matrix(axis.growth, axis.growth.write), ([position], [0]))
            assert float(seen.abs().max()) <= 1e-13


@settings(max_examples=40, deadline=None)
@given(growths(), st.sampled_from(LAYOUTS), st.integers(1, 9), st.integers(0, 3))
def test_noise_is_invisible_and_the_same_however_it_is_cut(
    found: dict[str, Growth], text: str, step: int, seed: int
) -> None:
    growth = TensorGrowth.of(parse(text), found)
    noise = noise_for(growth, seed=seed, name="w", amplitude=2.0)
    copied = [axis for axis in growth.axes if axis.role == "in" and (axis.growth.num_copies > 1).any()]
    if not copied:
        assert noise is None
        return
    assert noise is not None
    whole = torch.from_numpy(noise.rows(0, noise.shape[0]))
    pieces = [noise.rows(start, min(start + step, noise.shape[0])) for start in range(0, noise.shape[0], step)]
    assert torch.equal(whole, torch.from_numpy(np.concatenate(pieces)))
    for position, axis in enumerate(growth.axes):
        if axis in copied:
            seen = torch.tensordot(whole, matrix(axis.growth, axis.growth.write), ([position], [0]))
            assert float(seen.abs().max()) <= 1e-13
    lone = whole.index_select(
        growth.axes.index(copied[0]), torch.from_numpy((copied[0].growth.num_copies == 1).nonzero()[0])
    )
    assert not lone.any() and whole.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_low_precision_is_rounded_once(dtype: torch.dtype, factor: int) -> None:
    found = {"a": copies(4, 4 * factor), "b": identity(3)}
    growth = TensorGrowth.of(parse("b <- a"), found)
    old = torch.randn(3, 4).to(dtype)
    grown = growth.weight(tile).rows(read_from(old), 0, 3)
    assert grown.dtype == dtype
    assert torch.equal(grown[:, :4], (old.double() / factor).to(dtype))


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("new_size", range(6, 14))
def test_copies_preserve_the_function(size: int, new_size: int) -> None:
    growth = copies(size, new_size)
    assert growth.preserves_function() and growth.num_new == new_size
    assert growth.copy.tolist() == [coordinate // size for coordinate in range(new_size)]
    rebuilt = [run.source + offset for run in growth.runs for offset in range(run.stop - run.start)]
    assert rebuilt == growth.source.tolist()


def test_products_of_growths_copy_whole_heads() -> None:
    growth = product([copies(2, 4), identity(3)])
    assert growth.source.tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert growth.read.tolist() == [0.5] * 12
