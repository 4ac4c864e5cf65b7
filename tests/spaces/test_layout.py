"""The notation: order, direction, products, parts."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest

from ckptgrow.spaces.growth import identity
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
        ("1+gain head", "gain", ["out"], [(("head",),)]),
        (
            "1 (1 + patches): residual",
            "bias",
            ["batch", "batch", "out"],
            [((1,),), ((1,), ("patches",)), (("residual",),)],
        ),
        ("fixed", "fixed", [], []),
    ],
)
def test_layouts_are_parsed(text: str, kind: str, roles: list[str], parts: list[object]) -> None:
    layout = parse(text)
    assert layout.kind == kind
    assert [axis.role for axis in layout.axes] == roles
    assert [axis.parts for axis in layout.axes] == parts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "the end"),
        ("->", "'-' at character 1"),
        ("<- residual", "'<' at character 1"),
        ("vocab ->", "the end"),
        ("residual <= x", "'<' at character 10"),
        ("residual <-- x", "'-' at character 12"),
        ("vocab <- residual -> ffn", "'-' at character 19"),
        ("(heads head <- x", "'<' at character 13"),
        ("(heads head", "the end"),
        ("heads head) <- x", "')' at character 11"),
        ("(heads (head)) <- x", "'(' at character 8"),
        ("() <- x", "')' at character 2"),
        ("(heads head +) <- x", "')' at character 14"),
        ("(heads + + head) <- x", "'+' at character 10"),
        ("heads + head <- x", "'+' at character 7"),
        ("0 <- x", "'0' at character 1"),
        ("2ffn <- x", "'2' at character 1"),
        ("kv-heads <- x", "'-' at character 3"),
        ("vocab, ffn <- x", "',' at character 6"),
        ("größe <- x", "'ö' at character 3"),
        (": ffn <- x", "':' at character 1"),
        ("experts:", "the end"),
        ("experts: layers: ffn <- x", "':' at character 16"),
        ("gain", "the end"),
        ("gain ffn normed", "'n' at character 10"),
        ("gain ffn <- normed", "'<' at character 10"),
        ("gian normed", "the end"),
        ("1+gains normed", "'+' at character 2"),
        ("(gain normed)", "'g' at character 2"),
        ("fixed <- x", "'f' at character 1"),
        ("fixed ", "'f' at character 1"),
    ],
)
def test_what_is_no_layout_is_refused_with_its_character(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"layout {text!r}: found {found}, expected ")):
        parse(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("vocab<-residual", "vocab <- residual"),
        ("( 3  heads head )<-normed", "(3 heads head) <- normed"),
        ("(a+b)", "(a + b)"),
        ("a :gain b", "a: gain b"),
    ],
)
def test_blanks_beside_signs_change_nothing(text: str, same: str) -> None:
    assert parse(text).axes == parse(same).axes and parse(text).kind == parse(same).kind


def test_layer_maps() -> None:
    assert [one.source for one in stretched(3, 2, "append", "copy")] == [0, 1, 2, 0, 1, 2]
    assert [one.kind for one in stretched(2, 3, "alternate", "zero-norm")] == ["old", "zero-norm", "zero-norm"] * 2
    assert [one.kind for one in listed([0, 1, 1, 2], "copy")] == ["old", "old", "copy", "old"]
    assert keeps_order(listed([0, 0, 1], "copy"), 2) and not keeps_order(listed([1, 0], "copy"), 2)


@pytest.mark.parametrize("module", ["spaces.growth", "spaces.layout", "spaces.layers", "errors", "storage.tree"])
def test_the_examples_in_docstrings_hold(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"ckptgrow.{module}"))
    assert results.attempted > 0 and results.failed == 0


@pytest.mark.parametrize(
    ("text", "silencing"),
    [
        ("ffn! <- residual", [True, True, True]),
        ("ffn <- residual", [False, False, False]),
        ("(2! ffn) <- residual", [False, False, False, True, True, True]),
        ("(heads 2! head) <- residual", [False, False, True, True] * 2),
        ("(heads head + heads! head)", [False] * 4 + [True] * 4),
    ],
)
def test_a_mark_says_which_rows_silence_a_unit(text: str, silencing: list[bool]) -> None:
    sizes = {"ffn": 3, "residual": 2, "heads": 2, "head": 2}
    layout = parse(text)
    found = layout.axes[0].growth({space: identity(size) for space, size in sizes.items()}).silencing
    assert found is not None and found.tolist() == silencing
    assert [axis.parts for axis in layout.axes] == [axis.parts for axis in parse(text.replace("!", "")).axes]
