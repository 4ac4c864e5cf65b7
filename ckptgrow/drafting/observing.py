"""Real tiny models of a class, observed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ckptgrow.drafting.observed_model import Observed, moved
from ckptgrow.drafting.roles import silent
from ckptgrow.drafting.tiny_config import Tiny
from ckptgrow.errors import ConfigError


def observe(subject: Tiny, seed: int = 0) -> Observed:
    """A real tiny model far from its initialisation, whose head is a tensor of its own."""
    model = subject.built()
    inside: Any = model.get_input_embeddings()
    outside: Any = model.get_output_embeddings()
    embedding = getattr(inside, "weight", None)
    if isinstance(embedding, torch.nn.Parameter) and getattr(outside, "weight", None) is embedding:
        outside.weight = torch.nn.Parameter(embedding.detach().clone())
    return Observed(model=moved(model, seed), vocabulary=subject.own_fields.get("vocab_size", 2), seed=seed)


def is_running(subject: Tiny) -> bool:
    """Whether a tiny model computes finite logits that are not all the same.

    Raises ConfigError where its forward pass fails.
    """
    try:
        logits = observe(subject).own
    except ConfigError:
        raise
    except Exception as error:  # classes' own code, with sizes that nobody has tried
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ConfigError(f"its forward fails ({told})") from error
    return bool(torch.isfinite(logits).all()) and float(logits.std()) > 0


def is_seen(subject: Tiny, names: Collection[str]) -> bool:
    """Whether any logit depends on one of these parameters."""
    return bool(set(names) - silent(observe(subject).gradients(0)))
