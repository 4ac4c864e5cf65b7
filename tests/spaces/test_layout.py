"""The notation: order, direction, products, parts."""

from __future__ import annotations

import doctest
import importlib

import pytest

from ckptgrow.spaces.layers import keeps_order, listed, stretched
from ckptgrow.spaces.layout import parse


@pytest.mark.parametrize(
    ("text", "kind", "roles", "parts"),
    [
        ("vocab <- residual", "matrix", ["out", "in"], [(("vocab",),), (("residual",),)]),
        ("residual -> ffn", "matrix", ["in", "out"], [(("residual",),), (("ffn",),)]),
        ("normed -> (3 heads head)", "matrix", ["in", "out"], [(("normed",),), ((3, "heads", "head"),)]),
        (
            "(heads head + kv head) <- normed",
            "matrix",
            ["out", "in"],
            [(("heads", "head"), ("kv", "head")), (("normed",),)],
        ),
        ("experts: ffn <- normed", "matrix", ["batch", "out", "in"], [(("experts",),), (("ffn",),), (("normed",),)]),
        ("ffn", "bias", ["out"], [(("ffn",),)]),
        ("gain normed", "gain", ["out"], [(("normed",),)]),
        ("fixed", "fixed", [], []),
    ],
)
def test_layouts_are_parsed(text: str, kind: str, roles: list[str], parts: list[object]) -> None:
    layout = parse(text)
    assert layout.kind == kind
    assert [axis.role for axis in layout.axes] == roles
    assert [axis.parts for axis in layout.axes] == parts


@pytest.mark.parametrize("text", ["<- residual", "vocab ->", "->"])
def test_a_side_without_an_axis_is_no_layout(text: str) -> None:
    with pytest.raises(ValueError, match="names no axis"):
        parse(text)


def test_layer_maps() -> None:
    assert [one.source for one in stretched(3, 2, "append", "copy")] == [0, 1, 2, 0, 1, 2]
    assert [one.kind for one in stretched(2, 3, "alternate", "zero-norm")] == ["old", "zero-norm", "zero-norm"] * 2
    assert [one.kind for one in listed([0, 1, 1, 2], "copy")] == ["old", "old", "copy", "old"]
    assert keeps_order(listed([0, 0, 1], "copy"), 2) and not keeps_order(listed([1, 0], "copy"), 2)


@pytest.mark.parametrize("module", ["spaces.growth", "spaces.layout", "spaces.layers", "errors", "storage.tree"])
def test_the_examples_in_docstrings_hold(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"ckptgrow.{module}"))
    assert results.attempted > 0 and results.failed == 0
