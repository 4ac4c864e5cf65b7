"""Both models on the tokens that both have: their inputs in the numbers of each, their logits of these tokens alone.

Restricted so, a grown model with another vocabulary computes what the small one does, gradients included, and old
entries train alike. What the new tokens change is measured by itself: by how much the softmax's sum, and with it the
loss on old tokens, rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckptgrow.spaces.growth import IntVector
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.samples import logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INPUTS = ("input_ids", "decoder_input_ids")
_IS_WHOLE: ContextVar[bool] = ContextVar("whole", default=False)  # restricted models give all logits then


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """The tokens that both models have, by their numbers in the small and in the grown one, in one order.

    Samples tell them by their places in it, and so do the columns of restricted logits.
    """

    small: IntVector
    grown: IntVector

    @classmethod
    def of(cls, pair: Pair) -> KeptTokens | None:
        """Those of a pair; None where the vocabulary stayed."""
        growth = pair.growths.get("vocab")
        if growth is None or growth.is_identity:
            return None
        grown = np.flatnonzero(~growth.is_fresh)
        order = np.argsort(growth.source[grown])
        return cls(growth.source[grown][order], grown[order])

    def restrict(self, model: PreTrainedModel, *, is_grown: bool) -> None:
        """Lets a model take places of kept tokens, and give the logits of these tokens alone.

        Their rows of the head alone are multiplied, so that both models do the same sums in the same order.
        """
        ids = torch.from_numpy(self.grown if is_grown else self.small)
        ids = ids if model.device.type == "meta" else ids.to(model.device)  # a streamed model computes on the CPU
        head = model.get_output_embeddings()
        assert isinstance(head, torch.nn.Linear), "transformers' heads of tokens are matrices"

        def of_kept(module: torch.nn.Linear, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            if _IS_WHOLE.get():
                return output
            if module.weight.is_meta:  # of a streamed model, whose weights have gone again
                return output.index_select(-1, ids)
            bias = None if module.bias is None else module.bias[ids]  # pyright: ignore[reportUnnecessaryComparison]
            return torch.nn.functional.linear(args[0], module.weight[ids], bias)

        model.register_forward_pre_hook(lambda _, args, kwargs: (args, _numbered(kwargs, ids)), with_kwargs=True)
        head.register_forward_hook(of_kept)


def loss_rise(models: tuple[PreTrainedModel, PreTrainedModel], sample: torch.Tensor) -> float:
    """By how much the loss on a token that both restricted models have rises at most, in nats, over a sample."""
    is_restricted = _IS_WHOLE.set(True)
    try:
        with torch.no_grad():
            small, grown = (logits_of(model, sample).double().logsumexp(-1).cpu() for model in models)
    finally:
        _IS_WHOLE.reset(is_restricted)
    return float((grown - small).max())


def _numbered(inputs: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """A model's arguments with its numbers of tokens in the place of their places."""
    return {name: ids[one] if name in INPUTS and one is not None else one for name, one in inputs.items()}
