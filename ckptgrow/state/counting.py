"""The number of parameters that scaling laws and rules for learning rates use."""

from __future__ import annotations

from typing import Any

import torch


def num_without_embeddings(model: torch.nn.Module) -> int:
    """The number of parameters outside of embedding tables (of tokens, positions, types) and the head, tied or not.

    Source: Kaplan et al., "Scaling Laws for Neural Language Models", arXiv 2001.08361, section 2.1.
    """
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    left_out = [one for one in model.modules() if isinstance(one, torch.nn.Embedding)]
    left_out += [output] if isinstance(output, torch.nn.Module) else []
    skipped = {id(one) for module in left_out for one in module.parameters()}
    return sum(one.numel() for one in model.parameters() if id(one) not in skipped)
