"""The number of parameters without embeddings, from a number, a transformers config, or a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptgrow.errors import RequestError, at


def model_size(value: str) -> float:
    """N, from a number, a config.json, or a checkpoint that holds its architecture.

    Embeddings and the head are not counted, tied or not (Kaplan et al., arXiv 2001.08361, section 2.1).

    Raises RequestError for anything else, and ConfigError or CheckpointError for files that cannot be used.
    """
    try:
        number = float(value)
    except ValueError:
        config = _config(Path(value))
        with at(value):
            return float(num_params(config))
    if not 0 < number < math.inf:
        raise RequestError(f"⟦params {value}⟧: expected a number above zero")
    return number


def _config(path: Path) -> Mapping[str, Any]:
    from ckptgrow.formats.checkpoint import Checkpoint
    from ckptgrow.formats.known_formats import read_checkpoint
    from ckptgrow.state.config_sources import architecture_of

    if not path.exists():
        raise RequestError(f"⟦params {path}⟧: is neither a number nor a file, expected a config.json or a checkpoint")
    if path.suffix == ".json":
        nothing = Checkpoint(path=path, kind="config", tensors={}, config=None)
        return architecture_of(nothing, path).config
    return architecture_of(read_checkpoint(path)).config


def num_params(config: Mapping[str, Any]) -> int:
    """N of the model of a transformers config."""
    import torch

    from ckptgrow.state.counting import num_without_embeddings
    from ckptgrow.state.model import build_model

    with torch.device("meta"):
        return num_without_embeddings(build_model(config, torch.float32))
