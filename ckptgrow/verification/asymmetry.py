"""How far the copies differ: in weights, gradients and hidden states.

The measure is ‖x − πx‖ / ‖x‖, where π exchanges every coordinate for the next copy of its source, on all axes at once.
It is zero exactly where the copies cannot be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.selection import selected
from ckptgrow.verification.gradients import Gradients
from ckptgrow.verification.magnitude import power
from ckptgrow.verification.model_inputs import inputs_of
from ckptgrow.verification.pair import Link, Pair, next_copies
from ckptgrow.verification.precision import computing_in


def weight_asymmetry(pair: Pair) -> float:
    """The relative difference of the copies over all weights together; 0 where the weights have no copies."""
    return _relative_difference(pair, pair.grown_tensor)


def gradient_asymmetry(pair: Pair, gradients: Gradients) -> float:
    """The relative difference of the copies over all gradients together; 0 where they have no copies."""
    return _relative_difference(pair, lambda link: gradients[link.grown.canonical])


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


def _relative_difference(pair: Pair, tensor_of: Callable[[Link], torch.Tensor]) -> float:
    difference = total = 0.0
    for link in pair.links.values():
        if link.has_copies and not link.is_new_layer:
            tensor = tensor_of(link)
            difference += power(tensor - link.next_copy(tensor))
            total += power(tensor)
    if not math.isfinite(total):
        return math.inf
    return math.sqrt(difference / total) if total > 0 else 0.0
