"""Layer maps: which old layer each new layer is, or is made from.

Kinds of layers in the new stack:

    old           an old layer, unchanged, moments and step included
    copy          a copy of an old layer with its moments (stacking; changes the function)
    zero-output   a copy whose matrices and biases that write the residual stream are zero: an exact identity
    zero-norm     a copy whose norm gains and biases are zero: an exact identity (Shen et al., arXiv 2203.06211)
    random        matrices drawn as large as those of an old layer, its gains, biases zero (changes the function)
    ode           a copy of an old layer; all r mentions of that layer, the old one's too, write the residual stream 1/r
                  as large: h + F(h) becomes r steps of F/r (changes the function by the square of what blocks add)

Source of the last: Chang et al., "Multi-level Residual Networks from Dynamical Systems View", arXiv 1710.10348.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ckptgrow.choices import NewLayer, Place

LayerKind = Literal["old", "zero-output", "zero-norm", "copy", "random", "ode"]

NEW_LAYERS: tuple[NewLayer, ...] = get_args(NewLayer)


@dataclass(frozen=True)
class Layer:
    """One layer of the new stack: the old layer it comes from, as what, and how much of what that writes it writes."""

    source: int
    kind: LayerKind
    share: float = 1.0


def stretched(num_old: int, factor: int, place: Place, new: NewLayer) -> tuple[Layer, ...]:
    """`factor` times as many layers.

    alternate: old 0, new, old 1, new, …; append: all old ones, then the new ones; middle: the new ones behind the
    middle third, made from its layers in turn.

    >>> [layer.source for layer in stretched(2, 2, "alternate", "copy")]
    [0, 0, 1, 1]
    >>> [layer.kind for layer in stretched(2, 2, "append", "zero-output")]
    ['old', 'old', 'zero-output', 'zero-output']
    >>> [layer.source for layer in stretched(6, 2, "middle", "copy")]
    [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5]

    Source of the middle third: arXiv 2609.19107, which copies a trained core.
    """
    if place == "alternate":
        return listed([layer for layer in range(num_old) for _ in range(factor)], new)
    if place == "append":
        return listed([layer for _ in range(factor) for layer in range(num_old)], new)
    third = -(-num_old // 3)
    start = (num_old - third) // 2
    made = [start + number % third for number in range((factor - 1) * num_old)]
    return listed([*range(start + third), *made, *range(start + third, num_old)], new)


def interspersed(num_old: int, every: int, new: NewLayer) -> tuple[Layer, ...]:
    """The old layers, behind every `every`-th of them a new one made from it.

    >>> [layer.source for layer in interspersed(5, 2, "zero-output")]
    [0, 1, 1, 2, 3, 3, 4]
    """
    sources = ([layer] * (2 if (layer + 1) % every == 0 else 1) for layer in range(num_old))
    return listed([layer for pair in sources for layer in pair], new)


def listed(sources: Sequence[int], new: NewLayer) -> tuple[Layer, ...]:
    """A map from an explicit list: an old layer's first mention is that layer, every later one a new layer from it."""
    counts = Counter(sources)
    seen: set[int] = set()
    layers: list[Layer] = []
    for source in sources:
        share = 1 / counts[source] if new == "ode" else 1.0
        layers.append(Layer(source, new if source in seen else "old", share))
        seen.add(source)
    return tuple(layers)


def keeps_order(layers: Sequence[Layer], num_old: int) -> bool:
    """Whether the old layers all occur, once each and in their order."""
    return [layer.source for layer in layers if layer.kind == "old"] == list(range(num_old))
