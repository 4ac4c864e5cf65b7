"""Model sizes of the benchmark, and what a token costs in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """FLOPs, forward and backward: of the blocks alone, and with the product of the (tied) embedding."""

    without: float
    whole: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.without + other.without, self.whole + other.whole)

    def times(self, number: float) -> Cost:
        """Of so many tokens."""
        return Cost(self.without * number, self.whole * number)


@dataclass(frozen=True)
class Shape:
    """A Llama model with tied embeddings: layers, hidden size, feed-forward units, attention heads."""

    layers: int
    hidden: int
    ffn: int
    heads: int

    @property
    def key(self) -> str:
        """Its part of a run's name."""
        return f"{self.layers}x{self.hidden}"

    @property
    def num_block_parameters(self) -> int:
        """Without embeddings: four square matrices of attention, three of SwiGLU, and the gains of the norms."""
        block = 4 * self.hidden**2 + 3 * self.hidden * self.ffn + 2 * self.hidden
        return self.layers * block + self.hidden

    def num_parameters(self, vocabulary: int) -> int:
        """All of them; the embedding is the head, too."""
        return self.num_block_parameters + vocabulary * self.hidden

    def cost_per_token(self, vocabulary: int, length: int) -> Cost:
        """6·N + 12·layers·hidden·length, the second term for attention's own products.

        Source: Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B.
        """
        blocks = 6 * self.num_block_parameters + 12 * self.layers * self.hidden * length
        return Cost(blocks, blocks + 6 * vocabulary * self.hidden)

    def config(self, vocabulary: int, length: int) -> dict[str, Any]:
        """A transformers config without dropout."""
        return {
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": length,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
