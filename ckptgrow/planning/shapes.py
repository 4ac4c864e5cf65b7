"""The shapes of transformers with given numbers of parameters: 12 · layers · hidden² without embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptgrow.planning.operators import GrowthStep

ASPECT = 64  # hidden units a layer: GPT-2's base and large in the staged-training paper
LARGEST_DEPTH = 256


@dataclass(frozen=True)
class Shape:
    """The numbers of layers and heads, and the hidden size, of a transformer."""

    layers: int
    hidden: int
    heads: int

    @property
    def params(self) -> int:
        """The parameters without embeddings, biases and norms (Kaplan et al., arXiv 2001.08361, table 1)."""
        return 12 * self.layers * self.hidden**2

    def grown(self, growth: GrowthStep) -> Shape:
        """The shape after a growth."""
        deep = growth.factor if growth.operator in ("depth", "both") else 1
        wide = growth.factor if growth.operator in ("width", "both") else 1
        return replace(self, layers=self.layers * deep, hidden=self.hidden * wide, heads=self.heads * wide)

    def gpt2_config(self, seqlen: int, vocabulary: int) -> dict[str, object]:
        """A transformers config for a GPT-2 of this shape."""
        sizes = {
            "n_layer": self.layers,
            "n_embd": self.hidden,
            "n_head": self.heads,
            "n_positions": seqlen,
            "vocab_size": vocabulary,
        }
        return {"model_type": "gpt2", **sizes}


def shapes(params: float, growths: Sequence[GrowthStep]) -> tuple[Shape, ...]:
    """The shapes of all stages; the first has about `params` parameters, the last about the aspect `ASPECT`."""
    wide = math.prod(one.factor for one in growths if one.operator in ("width", "both"))
    deep = math.prod(one.factor for one in growths if one.operator in ("depth", "both"))
    best = min(
        (_shape(params, layers) for layers in range(1, LARGEST_DEPTH)), key=lambda one: _misfit(one, params, wide, deep)
    )
    found = [best]
    for growth in growths:
        found.append(found[-1].grown(growth))
    return tuple(found)


def _shape(params: float, layers: int) -> Shape:
    hidden = math.sqrt(params / 12 / layers)
    head = 64 if hidden >= 256 else 16
    heads = max(1, round(hidden / head))
    return Shape(layers, heads * head, heads)


def _misfit(shape: Shape, params: float, wide: int, deep: int) -> float:
    """How far a shape is from the asked number of parameters, with weight 10, and from the usual aspect."""
    aspect = shape.hidden * wide / (ASPECT * shape.layers * deep)
    return 10 * abs(math.log(shape.params / params)) + abs(math.log(aspect))
