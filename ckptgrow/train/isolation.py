"""Documents that share a sequence without seeing each other.

A separator ends every document. The position restarts behind it, and transformers makes of restarting positions a mask
that is block-diagonal by document. What is predicted from a separator is the beginning of another document, of which it
knows nothing: it is no part of the loss.

Source of the mask: transformers' `masking_utils.find_packed_sequence_indices`; of the practice: Grattafiori et al.,
"The Llama 3 Herd of Models", arXiv 2407.21783, section 3.2.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ckptgrow.errors import RequestError

IGNORED = -100  # a target that is no part of the loss, as torch's cross-entropy has it
CHECKED = 6  # tokens of each of the two documents by which a model is checked
ROUNDING = 1e-4  # relative, of float32 logits of the same document in another batch


@dataclass(frozen=True)
class Isolation:
    """The token that ends documents, and the share of all predictions that lie within one, over all training data."""

    separator: int
    kept: float

    def positions(self, tokens: torch.Tensor) -> torch.Tensor:
        """The place of every token in its document; int64, of the tokens' shape (batch, tokens)."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        behind = torch.nn.functional.pad(tokens[:, :-1] == self.separator, (1, 0))
        return places - torch.where(behind, places, 0).cummax(dim=1).values

    def targets(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The targets, IGNORED where a separator would predict; all of shape (batch, tokens)."""
        return torch.where(tokens == self.separator, IGNORED, targets)

    def loss(self, logits: torch.Tensor, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean next-token cross-entropy in nats: the sum over predictions within documents, over how many of them
        there are among so many tokens on the average.

        So every prediction weighs the same in every batch, and the gradient of a step does not depend on its division
        into micro-batches and devices.
        """
        within = self.targets(tokens, targets).flatten()
        total = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), within, reduction="sum")
        return total / (self.kept * targets.numel())


def logits_of(model: torch.nn.Module, tokens: torch.Tensor, isolation: Isolation | None) -> torch.Tensor:
    """A model's logits, shape (batch, tokens, vocabulary); without `isolation` all of a sequence is one document."""
    places = {} if isolation is None else {"position_ids": isolation.positions(tokens)}
    return model(input_ids=tokens, use_cache=False, **places).logits


def check_isolates(model: torch.nn.Module) -> None:
    """Raises RequestError where documents in one sequence are not to a model what they are alone.

    Two documents of a few tokens are given to it, in one sequence and apart; afterwards it is in the mode in which it
    was.
    """
    name = type(model).__name__
    way_out = "leave ⟦documents⟧ out, or take a family whose attention does"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise RequestError(f"⟦documents isolated⟧: transformers' {name} takes no positions; {way_out}")
    was_training = model.training
    model.eval()
    with torch.no_grad():
        difference = _difference(model)
    model.train(was_training)
    if difference > ROUNDING:
        raise RequestError(
            f"⟦documents isolated⟧: a second document in a sequence sees the first under transformers' {name} (its "
            f"logits differ by {difference:.2g} from those alone, relatively); {way_out}"
        )


def _difference(model: torch.nn.Module) -> float:
    """The largest difference between logits of documents in one sequence and alone, over the largest logit."""
    device = next(model.parameters()).device
    config: Any = model.config
    tokens = torch.arange(1, 2 * CHECKED + 1, device=device)[None] % int(config.vocab_size)
    positions = torch.arange(CHECKED, device=device)[None]
    both = _logits(model, tokens, {"position_ids": torch.cat([positions, positions], dim=1)})
    apart = torch.cat([_logits(model, one, {"position_ids": positions}) for one in tokens.split(CHECKED, dim=1)], dim=1)
    return float((both - apart).abs().max() / apart.abs().max().clamp(min=1e-30))


def _logits(model: torch.nn.Module, tokens: torch.Tensor, places: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return model(input_ids=tokens, use_cache=False, **places).logits.double()
