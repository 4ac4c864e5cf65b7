"""The notation that says which space each axis of a tensor lies in.

    "vocab <- residual"             rows are outputs, columns inputs (torch.nn.Linear)
    "residual -> ffn"               rows are inputs, columns outputs (Conv1D, embeddings)
    "(3 heads head) <- normed"      an axis that is a product, the last factor fastest; numbers do not grow
    "(heads head + kv_heads head) <- normed"    an axis on which parts follow each other
    "experts: ffn <- normed"        axes before the colon index whole matrices
    "ffn"                           a bias: it writes the space
    "gain normed"                   a norm's gain: it scales what it writes
    "1+gain normed"                 a gain stored without its 1, as in Gemma
    "fixed"                         a tensor that no growth touches

Storage order is reading order; the arrow gives the direction of the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ckptgrow.spaces.growth import Growth, concatenation, identity, product

Role = Literal["out", "in", "batch"]
Kind = Literal["matrix", "bias", "gain", "fixed"]
Factor = str | int

_GAINS = {"gain": 0.0, "1+gain": 1.0}
_AXIS = re.compile(r"\([^()]*\)|[^\s()]+")


@dataclass(frozen=True)
class Axis:
    """One stored axis: its role and its parts, each a product of spaces and numbers."""

    role: Role
    parts: tuple[tuple[Factor, ...], ...]

    @property
    def spaces(self) -> frozenset[str]:
        """The names of the spaces on this axis."""
        return frozenset(factor for part in self.parts for factor in part if isinstance(factor, str))

    def growth(self, growths: Mapping[str, Growth]) -> Growth:
        """The axis's growth, from those of its spaces."""
        return concatenation(
            [
                product([identity(factor) if isinstance(factor, int) else growths[factor] for factor in part])
                for part in self.parts
            ]
        )


@dataclass(frozen=True)
class Layout:
    """A parsed layout; `axes` in storage order."""

    text: str
    kind: Kind
    axes: tuple[Axis, ...]
    offset: float = 0.0  # what the model adds to the stored tensor

    @property
    def written(self) -> frozenset[str]:
        """The spaces that the tensor writes."""
        return frozenset(space for axis in self.axes if axis.role == "out" for space in axis.spaces)

    @property
    def spaces(self) -> frozenset[str]:
        """All spaces of the tensor."""
        return frozenset(space for axis in self.axes for space in axis.spaces)


@cache
def parse(text: str) -> Layout:
    """Parses a layout's text (see the module's head for the notation).

    >>> [axis.role for axis in parse("residual -> ffn").axes]
    ['in', 'out']

    Raises ValueError on text that is no layout.
    """
    if text == "fixed":
        return Layout(text, "fixed", ())
    batch, colon, body = text.rpartition(":")
    axes = _axes(batch, "batch") if colon else ()
    if "<-" in body:
        left, _, right = body.partition("<-")
        return Layout(text, "matrix", axes + _axes(left, "out") + _axes(right, "in"))
    if "->" in body:
        left, _, right = body.partition("->")
        return Layout(text, "matrix", axes + _axes(left, "in") + _axes(right, "out"))
    word, _, rest = body.strip().partition(" ")
    if word in _GAINS:
        return Layout(text, "gain", axes + _axes(rest, "out"), _GAINS[word])
    return Layout(text, "bias", axes + _axes(body, "out"))


def _axes(text: str, role: Role) -> tuple[Axis, ...]:
    tokens: list[str] = _AXIS.findall(text)
    if not tokens:
        raise ValueError(f"layout side {text!r} names no axis")
    return tuple(Axis(role, _parts(token.strip("()"))) for token in tokens)


def _parts(text: str) -> tuple[tuple[Factor, ...], ...]:
    return tuple(tuple(int(word) if word.isdigit() else word for word in part.split()) for part in text.split("+"))
