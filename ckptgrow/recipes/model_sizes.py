"""How large a model is, from its config alone; and what a growth makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptgrow.choices import Operator
from ckptgrow.errors import CheckpointError

if TYPE_CHECKING:
    import torch

STATE_BYTES = 12  # of a parameter: float32, and two moments


@dataclass(frozen=True)
class ModelSize:
    """Parameters in all, and without embeddings and head, by which FLOPs are counted (6 · N · tokens)."""

    total: int
    without_embeddings: int

    @property
    def state_bytes(self) -> int:
        """Of a checkpoint with AdamW's state."""
        return STATE_BYTES * self.total

    def flops(self, tokens: float) -> float:
        """Of training on so many tokens (Kaplan et al., arXiv 2001.08361, section 2.1)."""
        return 6.0 * self.without_embeddings * tokens


def size_of(config: Mapping[str, Any]) -> ModelSize:
    """The size of the model that a config describes; takes no memory."""
    import torch

    from ckptgrow.state.counting import num_without_embeddings
    from ckptgrow.state.model import build_model

    with torch.device("meta"):
        model = build_model(config, torch.float32)
    return ModelSize(sum(one.numel() for one in model.parameters()), num_without_embeddings(model))


def grown_config(config: Mapping[str, Any], operator: Operator, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config that a growth makes of another, by the growth itself; raises what it raises."""
    import torch

    from ckptgrow.formats.checkpoint import Checkpoint
    from ckptgrow.growth.growths import GROWTHS
    from ckptgrow.state.model import build_model
    from ckptgrow.storage.tensors import Made

    with torch.device("meta"):
        model = build_model(config, torch.float32)
    tied = dict(model.named_parameters(remove_duplicate=False)).keys() - dict(model.named_parameters()).keys()
    state = {name: one for name, one in model.state_dict().items() if name not in tied}
    tensors = {name: Made(tuple(one.shape), one.dtype, _none) for name, one in state.items()}
    first = Checkpoint(path=Path("the first model"), kind="config", tensors=tensors, config=config)
    return GROWTHS[operator](first, None, **options).config


def _none(start: int, stop: int) -> torch.Tensor:
    raise CheckpointError("a model that is only foreseen has no weights")
