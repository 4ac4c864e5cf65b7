"""How far the copies differ: in weights, gradients and hidden states.

The measure is ‖x − πx‖ / ‖x‖, where π exchanges every coordinate for the next copy of its source, on all axes at once.
It is zero exactly where the copies cannot be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.selection import selected
from ckptgrow.storage.tensors import InMemory, LazyTensor, num_elements
from ckptgrow.verification.gradients import Gradients
from ckptgrow.verification.model_inputs import inputs_of
from ckptgrow.verification.pair import Link, Pair, next_copies
from ckptgrow.verification.precision import computing_in
from ckptgrow.verification.tensor_blocks import blocks_of, exact_sum, row_sums
from ckptgrow.verification.threads import in_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def weight_asymmetry(pair: Pair) -> float:
    """The relative difference of the copies over all weights together; 0 where the weights have no copies."""

    def weight(link: Link) -> tuple[LazyTensor, float]:
        return pair.grown.checkpoint.tensors[link.grown.name], link.grown.layout.offset

    return _relative_difference(pair, weight)


def gradient_asymmetry(pair: Pair, gradients: Gradients) -> float:
    """The relative difference of the copies over all gradients together; 0 where they have no copies."""
    return _relative_difference(pair, lambda link: (InMemory(gradients[link.grown.canonical]), 0.0))


def hidden_asymmetry(model: PreTrainedModel, tokens: torch.Tensor, residual: Growth) -> float | None:
    """The relative difference of the copies in the last hidden states of the first sample; None where a class of
    one's own does not give any.

    `tokens`: int64, shape (batch, tokens); `residual`: the growth of the residual stream.
    """
    with torch.no_grad(), computing_in(model.dtype):
        output = model(**inputs_of(model, tokens[:1]), output_hidden_states=True)
    # the very last ones may be a projection to another size
    layers = getattr(output, "decoder_hidden_states" if model.config.is_encoder_decoder else "hidden_states", None)
    if layers is None:
        return None
    hidden = next(states for states in reversed(layers) if states.shape[-1] == residual.num_new)
    hidden = hidden.cpu().double()
    exchanged = selected(hidden, -1, next_copies(residual))
    return float((hidden - exchanged).norm() / hidden.norm())


def _relative_difference(pair: Pair, tensor_of: Callable[[Link], tuple[LazyTensor, float]]) -> float:
    """`tensor_of`: of each link a grown tensor, and what is added to it."""

    def sums(link: Link) -> tuple[list[float], list[float]]:
        (tensor, offset), differences, squares = tensor_of(link), list[float](), list[float]()
        for block in blocks_of(link, tensor.shape):
            stored = block.grown(tensor)
            found, exchanged = (one.double() + offset for one in (stored, block.link.next_copy(stored)))
            squares += row_sums(found.square())
            differences += row_sums(found.sub_(exchanged).square_())
        return differences, squares

    copied = [link for link in pair.links.values() if link.has_copies and not link.is_new_layer]
    found = in_threads(sums, copied, lambda link: num_elements(tensor_of(link)[0]))
    difference, total = (exact_sum([one for sums in found for one in sums[place]]) for place in range(2))
    if not math.isfinite(total):
        return math.inf
    return math.sqrt(difference / total) if total > 0 else 0.0
