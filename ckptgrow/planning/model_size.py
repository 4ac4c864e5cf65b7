"""The number of parameters without embeddings, from a number, a transformers config, or a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptgrow.errors import RequestError, at


def model_size(value: str, dialect: str | None = None) -> float:
    """N, from a number, a config.json, or a checkpoint that holds its architecture.

    Embeddings and the head are not counted, tied or not (Kaplan et al., arXiv 2001.08361, section 2.1). `dialect` is a
    checkpoint's, by name or in a file, where its tensors' names alone do not tell.

    Raises RequestError for anything else, and ConfigError or CheckpointError for files that cannot be used.
    """
    try:
        number = float(value)
    except ValueError:
        config = _config(Path(value), dialect)
        with at(value):
            return float(num_params(config))
    if not 0 < number < math.inf:
        raise RequestError(f"⟦params {value}⟧: expected a number above zero")
    return number


def _config(path: Path, dialect: str | None) -> Mapping[str, Any]:
    from ckptgrow.formats.checkpoint import Checkpoint
    from ckptgrow.state.config_sources import architecture_of
    from ckptgrow.state.opening import architecture_in

    if not path.exists():
        raise RequestError(f"⟦params {path}⟧: is neither a number nor a file, expected a config.json or a checkpoint")
    if path.suffix == ".json":
        nothing = Checkpoint(path=path, kind="config", tensors={}, config=None)
        return architecture_of(nothing, path).config
    return architecture_in(path, dialect=dialect).config


def num_params(config: Mapping[str, Any]) -> int:
    """N of the model of a transformers config."""
    import torch

    from ckptgrow.state.counting import num_without_embeddings
    from ckptgrow.state.model import build_model

    with torch.device("meta"):
        return num_without_embeddings(build_model(config, torch.float32))
