"""Training states in Lightning's layout, written and read by torch itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from tests.helpers.gpt2 import token_batches, train

HEADS: Mapping[str, Any] = {
    "bert": AutoModelForMaskedLM,
    "roberta": AutoModelForMaskedLM,
    "xlm-roberta": AutoModelForMaskedLM,
    "camembert": AutoModelForMaskedLM,
    "distilbert": AutoModelForMaskedLM,
    "vit": AutoModelForImageClassification,
    "t5": AutoModelForSeq2SeqLM,
    "mt5": AutoModelForSeq2SeqLM,
    "bart": AutoModelForSeq2SeqLM,
    "mbart": AutoModelForSeq2SeqLM,
    "pegasus": AutoModelForSeq2SeqLM,
    "modernbert": AutoModelForMaskedLM,
    "eurobert": AutoModelForMaskedLM,
}
OptimizerFor = Callable[[Iterable[Any]], torch.optim.Optimizer]


def save_lightning(
    path: Path,
    model: PreTrainedModel,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    schedulers: Sequence[Any] = (),
    global_step: int = 5,
    **extra: Any,
) -> Path:
    """A `.ckpt` with Lightning 2.x's keys."""
    tree: dict[str, Any] = {
        "epoch": 0,
        "global_step": global_step,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "loops": {"fit_loop": {"epoch_loop.batch_progress": {"total": {"completed": global_step}}}},
        "callbacks": {},
        "optimizer_states": [one.state_dict() for one in optimizers],
        "lr_schedulers": [one.state_dict() for one in schedulers],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": model.config.to_dict()},
        **extra,
    }
    torch.save(tree, path)
    return path


def trained_checkpoint(
    path: Path,
    model: PreTrainedModel,
    optimizer_for: OptimizerFor = lambda parameters: torch.optim.AdamW(parameters, lr=0.0),
    num_steps: int = 5,
    **extra: Any,
) -> Path:
    """Trains the model (in place) for some steps and saves everything."""
    optimizer = optimizer_for(model.parameters())
    train(model, optimizer, token_batches(num_steps))
    return save_lightning(path, model, [optimizer], global_step=num_steps, **extra)


def load_model(path: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a `.ckpt` through transformers and torch alone, and the whole file."""
    tree = torch.load(path, weights_only=True)
    config = dict(tree["hyper_parameters"]["config"])
    dtype = next(iter(tree["state_dict"].values())).dtype
    kind = HEADS.get(config["model_type"], AutoModelForCausalLM)
    model = kind.from_config(AutoConfig.for_model(**config)).to(dtype).eval()
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tree["state_dict"].items()})
    return model, tree


def state_of(path: Path) -> dict[str, Any]:
    """Parameters, moments and steps of a `.ckpt`, through torch alone."""
    tree = torch.load(path, weights_only=True)
    return {"weights": tree["state_dict"], "optimizers": tree["optimizer_states"], "step": tree["global_step"]}


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other) or isinstance(one, dict), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and np.array_equal(one, other), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{where}/{index}")
    else:
        assert one == other, where


Edit = Callable[[dict[str, Any]], object]


def edited(source: Path, edit: Edit) -> Path:
    tree = torch.load(source, weights_only=True)
    edit(tree)
    torch.save(tree, source)
    return source
