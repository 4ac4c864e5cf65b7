"""How far the copies differ: in weights, gradients and hidden states.

The measure is ‖x − πx‖ / ‖x‖, where π exchanges every coordinate for the next copy of its source, on all axes at once.
It is zero exactly where the copies cannot be told apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.selection import selected
from ckptgrow.storage.tensors import LazyTensor, num_elements
from ckptgrow.verification.model_inputs import inputs_of
from ckptgrow.verification.pair import Link, Pair, next_copies
from ckptgrow.verification.precision import computing_in
from ckptgrow.verification.tensor_blocks import blocks_of, exact_sum, row_sums
from ckptgrow.verification.threads import in_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class CopyDifference:
    """The sums of squares of which a relative difference over many tensors is made."""

    differences: list[float] = field(default_factory=list[float])
    squares: list[float] = field(default_factory=list[float])

    @classmethod
    def of(cls, link: Link, tensor: LazyTensor, offset: float = 0.0) -> CopyDifference:
        """Those of one grown tensor, to whose entries `offset` is added."""
        found = cls()
        for block in blocks_of(link, tensor.shape):
            stored = block.grown(tensor)
            own, exchanged = (one.double() + offset for one in (stored, block.link.next_copy(stored)))
            found.squares += row_sums(own.square())
            found.differences += row_sums(own.sub_(exchanged).square_())
        return cls([exact_sum(found.differences)], [exact_sum(found.squares)])  # rows of all layers would be many

    def add(self, other: CopyDifference) -> None:
        """Takes another tensor's sums in."""
        self.differences += other.differences
        self.squares += other.squares

    @property
    def relative(self) -> float:
        """The relative difference; 0 where all is zero."""
        difference, total = exact_sum(self.differences), exact_sum(self.squares)
        if not math.isfinite(total):
            return math.inf
        return math.sqrt(difference / total) if total > 0 else 0.0


def is_copied(link: Link) -> bool:
    """Whether a tensor has copies that can be compared."""
    return link.has_copies and not link.is_new_layer


def weight_asymmetry(pair: Pair) -> float:
    """The relative difference of the copies over all weights together; 0 where the weights have no copies."""
    tensors = pair.grown.checkpoint.tensors
    copied = [link for link in pair.links.values() if is_copied(link)]
    of_all = CopyDifference()
    for one in in_threads(
        lambda link: CopyDifference.of(link, tensors[link.grown.name], link.grown.layout.offset),
        copied,
        lambda link: num_elements(tensors[link.grown.name]),
    ):
        of_all.add(one)
    return of_all.relative


def last_hidden(model: PreTrainedModel, output: Any, residual: Growth) -> torch.Tensor | None:
    """The last hidden states of the first sequence among a model's output, on the CPU in its dtype; None where a class
    of one's own does not give any.
    """
    # the very last ones may be a projection to another size
    layers = getattr(output, "decoder_hidden_states" if model.config.is_encoder_decoder else "hidden_states", None)
    if layers is None:
        return None
    return next(states for states in reversed(layers) if states.shape[-1] == residual.num_new)[:1].detach().cpu()


def hidden_of_first(model: PreTrainedModel, tokens: torch.Tensor, residual: Growth) -> torch.Tensor | None:
    """The same by a pass of its own over the first sequence of `tokens`: int64, shape (batch, tokens), or images."""
    with torch.no_grad(), computing_in(model.dtype):
        return last_hidden(model, model(**inputs_of(model, tokens[:1]), output_hidden_states=True), residual)


def hidden_asymmetry(hidden: torch.Tensor | None, residual: Growth) -> float | None:
    """The relative difference of the copies in hidden states; None where there are none.

    `residual`: the growth of the residual stream.
    """
    if hidden is None:
        return None
    hidden = hidden.double()
    exchanged = selected(hidden, -1, next_copies(residual))
    return float((hidden - exchanged).norm() / hidden.norm())
