"""The notation that says which space each axis of a tensor lies in.

    "vocab <- residual"             rows are outputs, columns inputs (torch.nn.Linear)
    "residual -> ffn"               rows are inputs, columns outputs (Conv1D, embeddings)
    "(3 heads head) <- normed"      an axis that is a product, the last factor fastest; numbers do not grow
    "(heads head + kv_heads head) <- normed"    an axis on which parts follow each other
    "experts: ffn <- normed"        axes before the colon index whole matrices
    "routed <: residual <- ffn"     the same, of matrices whose outputs are summed: these axes are read too
    "ffn"                           a bias: it writes the space
    "gain normed"                   a norm's gain: it scales what it writes
    "1+gain normed"                 a gain stored without its 1, as in Gemma
    "fixed"                         a tensor that no growth touches
    "(kv_heads! head) <- normed"    what writes it silences a unit by zeros alone: values, one factor of gated units
    "(2! ffn) <- normed"            the same of the last of two: gate and up in one tensor

Storage order is reading order; the arrow gives the direction of the data. As a grammar:

    layout = "fixed" | [axes (":" | "<:")] body
    body   = axes ("<-" | "->") axes | ("gain" | "1+gain") axis | axis
    axes   = axis axis…
    axis   = factor | "(" part ("+" part)… ")"
    part   = factor factor…
    factor = (the name of a space | a number from 1 on) ["!"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NoReturn

import numpy as np

from ckptgrow.spaces.growth import BoolVector, Growth, concatenation, identity, product

Role = Literal["out", "in", "batch"]
Kind = Literal["matrix", "bias", "gain", "fixed"]
Factor = str | int
Parts = tuple[tuple[Factor, ...], ...]
MarkedFactor = tuple[Factor, bool]
MarkedParts = tuple[tuple[MarkedFactor, ...], ...]

_GAINS = {"gain": 0.0, "1+gain": 1.0}
_RESERVED = {"fixed", *_GAINS}
_TOKEN = re.compile(r"<-|<:|->|1\+gain\b|\w+|\S", re.ASCII)
_FACTOR = re.compile(r"[1-9][0-9]*|[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Axis:
    """One stored axis: its role and its parts, each a product of spaces and numbers."""

    role: Role
    parts: Parts
    silencing: tuple[tuple[bool, ...], ...]  # for every factor whether it has the mark "!"

    @property
    def spaces(self) -> frozenset[str]:
        """The names of the spaces on this axis."""
        return frozenset(factor for part in self.parts for factor in part if isinstance(factor, str))

    def silences(self, space: str) -> bool:
        """Whether a part that a space makes longer has the mark "!"."""
        return any(space in part and any(marks) for part, marks in zip(self.parts, self.silencing, strict=True))

    def growth(self, growths: Mapping[str, Growth]) -> Growth:
        """The axis's growth, from those of its spaces."""
        return concatenation(
            [
                product([_growth(*factor, growths) for factor in zip(part, marks, strict=True)])
                for part, marks in zip(self.parts, self.silencing, strict=True)
            ]
        )

    def marked(self, marks: Mapping[str, BoolVector]) -> BoolVector:
        """Which coordinates of the axis lie at a marked coordinate of one of its spaces."""
        return np.concatenate([_marked_in(part, marks) for part in self.parts])


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

    Raises ValueError on text that is not a layout; the message names the character, counted from 1.

    >>> parse("(heads head <- normed")
    Traceback (most recent call last):
    ValueError: layout '(heads head <- normed': found '<' at character 13, expected a factor, '+' or ')'
    """
    if text == "fixed":
        return Layout(text, "fixed", ())
    tokens = _Tokens(text)
    batch: list[MarkedParts] = []
    gain, first = _written(tokens)
    colon = "" if gain else tokens.taken(":", "<:")
    if colon:
        batch, (gain, first) = first, _written(tokens)
    arrow = "" if gain else tokens.taken("<-", "->")
    second = _axes(tokens) if arrow else []
    if tokens.left or not (arrow or len(first) == 1):
        tokens.refuse("an axis or the end" if arrow else "the end" if gain else "an axis, '<-' or '->'")
    return Layout(
        text,
        "matrix" if arrow else "gain" if gain else "bias",
        (
            *(_axis_of("in" if colon == "<:" else "batch", axis) for axis in batch),
            *(_axis_of("in" if arrow == "->" else "out", axis) for axis in first),
            *(_axis_of("in" if arrow == "<-" else "out", axis) for axis in second),
        ),
        _GAINS.get(gain, 0.0),
    )


class _Tokens:
    """A layout's tokens, taken from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.left = list(_TOKEN.finditer(text))

    @property
    def next(self) -> str:
        """The next token; at the end ""."""
        return self.left[0][0] if self.left else ""

    def taken(self, *tokens: str) -> str:
        """The next token, taken, if it is one of these; otherwise "", and nothing is taken."""
        return self.left.pop(0)[0] if self.next in tokens else ""

    def refuse(self, expected: str) -> NoReturn:
        """Raises the error that names the character at which the text stops being a layout."""
        found = f"{self.next[0]!r} at character {self.left[0].start() + 1}" if self.left else "the end"
        raise ValueError(f"layout {self.text!r}: found {found}, expected {expected}")


def _axis_of(role: Role, parts: MarkedParts) -> Axis:
    plain = tuple(tuple(factor for factor, _ in part) for part in parts)
    return Axis(role, plain, tuple(tuple(is_marked for _, is_marked in part) for part in parts))


def _growth(factor: Factor, is_silencing: bool, growths: Mapping[str, Growth]) -> Growth:
    growth = identity(factor) if isinstance(factor, int) else growths[factor]
    if not is_silencing:
        return growth
    all_of_it = np.ones(growth.num_new, np.bool_)
    last_of_it = np.arange(growth.num_new) == growth.num_new - 1
    return replace(growth, silencing=last_of_it if isinstance(factor, int) else all_of_it)


def _written(tokens: _Tokens) -> tuple[str, list[MarkedParts]]:
    gain = tokens.taken(*_GAINS)
    return gain, [_axis(tokens)] if gain else _axes(tokens)


def _axes(tokens: _Tokens) -> list[MarkedParts]:
    axes = [_axis(tokens)]
    while tokens.next == "(" or _is_factor(tokens.next):
        axes.append(_axis(tokens))
    return axes


def _axis(tokens: _Tokens) -> MarkedParts:
    if not tokens.taken("("):
        return ((_factor(tokens, "an axis"),),)
    parts = [_part(tokens)]
    while tokens.taken("+"):
        parts.append(_part(tokens))
    if not tokens.taken(")"):
        tokens.refuse("a factor, '+' or ')'")
    return tuple(parts)


def _part(tokens: _Tokens) -> tuple[MarkedFactor, ...]:
    factors = [_factor(tokens, "a factor")]
    while _is_factor(tokens.next):
        factors.append(_factor(tokens, "a factor"))
    return tuple(factors)


def _factor(tokens: _Tokens, expected: str) -> MarkedFactor:
    if not _is_factor(tokens.next):
        tokens.refuse(expected)
    word = tokens.taken(tokens.next)
    return int(word) if word.isdigit() else word, bool(tokens.taken("!"))


def _is_factor(token: str) -> bool:
    return bool(_FACTOR.fullmatch(token)) and token not in _RESERVED


def _marked_in(part: tuple[Factor, ...], marks: Mapping[str, BoolVector]) -> BoolVector:
    """The same of a product of spaces and numbers."""
    found = np.zeros(1, dtype=np.bool_)
    for factor in part:
        inner = np.zeros(factor, dtype=np.bool_) if isinstance(factor, int) else marks[factor]
        found = np.logical_or.outer(found, inner).ravel()
    return found
