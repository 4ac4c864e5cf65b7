"""What is being found out about each parameter, and the text of its layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ckptgrow.spaces.layout import Axis, Factor, Parts, Role

Kind = Literal["matrix", "experts", "convolution", "gain", "1+gain", "bias"]


@dataclass(kw_only=True)
class DraftedRow:
    """One parameter, or one in each layer: its template, one of its names, and what its axes are made of.

    `axes` are the parts of each axis; `marked` says for an axis and a part which factor's zeros silence a unit.
    """

    template: str
    names: tuple[str, ...]
    axes: list[Parts]
    kind: Kind = "matrix"
    read: int | None = None  # the axis that is read
    is_routed: bool = False  # of experts: their outputs are summed
    marked: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    when: str | None = None
    layers: str = "all"

    @property
    def name(self) -> str:
        """The parameter of the first layer that has it."""
        return self.names[0]

    @property
    def bias_name(self) -> str | None:
        """What the bias beside this weight is called, if there is one."""
        return self.name.removesuffix("weight") + "bias" if self.name.endswith("weight") else None

    @property
    def module(self) -> str:
        """The module that holds the one whose parameter this is."""
        return self.template.removesuffix(".weight").removesuffix(".bias").rpartition(".")[0]

    def role(self, axis: int) -> Role:
        """Whether an axis is read, written or indexes whole matrices."""
        if self.kind == "experts" and axis == 0:
            return "in" if self.is_routed else "batch"
        if self.kind in ("gain", "1+gain", "bias"):
            return "out" if axis == len(self.axes) - 1 else "batch"
        if self.kind == "convolution":
            return "in" if axis else "out"
        return "in" if axis == self.read else "out"

    def axis(self, number: int) -> Axis:
        """An axis as layouts have it."""
        parts = self.axes[number]
        marks = tuple(
            tuple(self.marked.get((number, place)) == i for i in range(len(part))) for place, part in enumerate(parts)
        )
        return Axis(self.role(number), parts, marks)

    @property
    def spaces(self) -> set[str]:
        """The spaces of all axes."""
        return {factor for parts in self.axes for part in parts for factor in part if isinstance(factor, str)}

    @property
    def layout(self) -> str:
        """The text of its layout."""
        texts = [self._text(axis) for axis in range(len(self.axes))]
        match self.kind:
            case "gain" | "1+gain":
                return (
                    " ".join([*texts[:-1], self.kind, texts[-1]])
                    if len(texts) == 1
                    else (f"{' '.join(texts[:-1])}: {self.kind} {texts[-1]}")
                )
            case "bias":
                return texts[0] if len(texts) == 1 else f"{' '.join(texts[:-1])}: {texts[-1]}"
            case "convolution":
                return f"{texts[0]} <- {' '.join(texts[1:])}"
            case "experts":
                colon = "<:" if self.is_routed else ":"
                return f"{texts[0]} {colon} {_matrix(texts[1:], (self.read or 2) - 1)}".replace(" :", ":", 1)
            case "matrix":
                return _matrix(texts, 1 if self.read is None else self.read)

    def _text(self, axis: int) -> str:
        parts = self.axes[axis]
        words = [
            " ".join(f"{factor}{'!' * (self.marked.get((axis, place)) == i)}" for i, factor in enumerate(part))
            for place, part in enumerate(parts)
        ]
        return f"({' + '.join(words)})" if len(words) > 1 or len(parts[0]) > 1 else words[0]


def _matrix(texts: Sequence[str], read: int) -> str:
    return f"{texts[0]} {'<-' if read == 1 else '->'} {texts[1]}"


def rows_of(shapes: Mapping[str, tuple[int, ...]], stacks: Sequence[str]) -> list[DraftedRow]:
    """The rows of a model's parameters in its order, without axes; names in a stack of layers become one row, unless
    their shapes differ. What only later layers have stands where it does there.
    """
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    order: list[tuple[str, tuple[int, ...]]] = []
    before: tuple[str, tuple[int, ...]] | None = None
    for name, shape in shapes.items():
        key = template_of(name, stacks), shape
        if key not in found:
            order.insert(0 if before is None else order.index(before) + 1, key)
        found.setdefault(key, []).append(name)
        before = key
    return [DraftedRow(template=key[0], names=tuple(found[key]), axes=[]) for key in order]


def template_of(name: str, stacks: Sequence[str]) -> str:
    """A parameter's name with its layer left open."""
    for stack in stacks:
        if name.startswith(stack):
            return stack + re.sub(r"^\d+", "{layer}", name.removeprefix(stack))
    return name


def layer_of(name: str, stacks: Sequence[str]) -> int | None:
    """The number of the layer that a parameter stands in."""
    found = next((re.match(r"\d+", name.removeprefix(stack)) for stack in stacks if name.startswith(stack)), None)
    return None if found is None else int(found[0])


def factor_text(factors: Sequence[Factor]) -> str:
    """Factors side by side."""
    return " ".join(map(str, factors))


Sizes = Mapping[str, int]
