"""One training state in four formats, written and read by torch, safetensors and transformers alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from transformers import PreTrainedModel

from tests.campaign.outcome import FindingError
from tests.campaign.subjects import Subject, built, widened

Format = str
FORMATS: tuple[Format, ...] = ("lightning", "huggingface", "trainer", "dcp")
STEPLESS = {"huggingface", "dcp"}  # a model alone, and torch's own layout, say no step of a run
PREFIX = "model."


@dataclass(frozen=True)
class State:
    """A run to be saved."""

    subject: Subject
    model: PreTrainedModel
    optimizers: Sequence[torch.optim.Optimizer]
    schedulers: Sequence[Any]
    step: int

    @property
    def config(self) -> dict[str, Any]:
        """As the subject says it: a rule stays a rule."""
        return {"model_type": self.subject.model_type, **self.subject.fields}


@dataclass(frozen=True)
class Reading:
    """A checkpoint as torch and transformers read it; the model in float64, the tensors as they are stored."""

    model: PreTrainedModel
    tensors: Mapping[str, torch.Tensor]
    optimizers: Sequence[Mapping[str, Any]]
    schedulers: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]


def save(path: Path, state: State, form: Format, extra: Mapping[str, Any] | None = None) -> Path:
    """Writes a state."""
    match form:
        case "lightning":
            torch.save(lightning_tree(state) | dict(extra or {}), path)
        case "dcp":
            _save_dcp(path, state)
        case _:
            _save_directory(path, state)
            if form == "trainer":
                _save_trainer(path, state)
    return path


def lightning_tree(state: State) -> dict[str, Any]:
    """Lightning 2's keys."""
    return {
        "epoch": 0,
        "global_step": state.step,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"{PREFIX}{name}": tensor for name, tensor in state.model.state_dict().items()},
        "loops": {
            "fit_loop": {
                "state_dict": {},
                "epoch_loop.batch_progress": {"total": {"ready": state.step, "completed": state.step}},
            }
        },
        "callbacks": {},
        "optimizer_states": [one.state_dict() for one in state.optimizers],
        "lr_schedulers": [one.state_dict() for one in state.schedulers],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": state.config},
    }


def _save_directory(path: Path, state: State) -> None:
    state.model.save_pretrained(path)
    made = json.loads((path / "config.json").read_text())
    told = {key: made[key] for key in ("architectures", "dtype", "transformers_version") if key in made}
    (path / "config.json").write_text(json.dumps({**state.config, **told}))


def _save_trainer(path: Path, state: State) -> None:
    (optimizer,) = state.optimizers
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    for scheduler in state.schedulers:
        torch.save(scheduler.state_dict(), path / "scheduler.pt")
    trainer = {"global_step": state.step, "epoch": 0.5, "max_steps": 100, "log_history": [], "stateful_callbacks": {}}
    (path / "trainer_state.json").write_text(json.dumps(trainer))


def _save_dcp(path: Path, state: State) -> None:
    tree = {"model": get_model_state_dict(state.model), "step": state.step}
    if state.optimizers:
        tree["optim"] = get_optimizer_state_dict(state.model, list(state.optimizers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tree, checkpoint_id=path, no_dist=True)
    (path / "config.json").write_text(json.dumps(state.config))


def read(path: Path, form: Format) -> Reading:
    """Reads a checkpoint. Raises FindingError where transformers or torch miss something in it."""
    if form == "lightning":
        tree = torch.load(path, weights_only=True)
        config, optimizers = tree["hyper_parameters"]["config"], tree.get("optimizer_states", [])
        return _filled(config, tree["state_dict"], optimizers, tree.get("lr_schedulers", []))
    if form == "dcp":
        return _read_dcp(path)
    config = json.loads((path / "config.json").read_text())
    model = _from_directory(path, config)
    files = [path / name for name in ("optimizer.pt", "scheduler.pt")]
    optimizer, scheduler = [[torch.load(one, weights_only=True)] if one.exists() else [] for one in files]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return Reading(widened(model), tensors, optimizer, scheduler, config)


def _read_dcp(path: Path) -> Reading:
    """Torch's own layout with its config beside it, or Lightning's with its `meta.pt`."""
    tree = dcp_tree(path)
    optimizers = [tree[key] for key in ("optim", "optimizer_0") if key in tree]
    if (path / "config.json").exists():
        return _filled(json.loads((path / "config.json").read_text()), tree["model"], optimizers, [])
    meta = torch.load(path / "meta.pt", weights_only=True)
    config = meta["hyper_parameters"]["config"]
    return _filled(config, tree["model"], optimizers, meta.get("lr_schedulers", []))


def dcp_tree(path: Path) -> dict[str, Any]:
    """A distributed checkpoint merged by torch itself."""
    merged = path.parent / f"{path.name}.merged.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(path, merged)
    tree = torch.load(merged, weights_only=False)
    merged.unlink()
    return tree


def _filled(config: Mapping[str, Any], stored: Mapping[str, Any], optimizers: Any, schedulers: Any) -> Reading:
    """The model with the stored tensors, whose names may begin with the LightningModule's own attribute."""
    model = built(config["model_type"], config)
    known = model.state_dict().keys()
    has_prefix = len(known & stored.keys()) < len(known & {name.removeprefix(PREFIX) for name in stored})
    tensors = {name.removeprefix(PREFIX) if has_prefix else name: tensor for name, tensor in stored.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing or unexpected:
        raise FindingError(f"the written file lacks {missing[:3]} and has {unexpected[:3]} too many")
    return Reading(model, tensors, optimizers, schedulers, config)


def _from_directory(path: Path, config: Mapping[str, Any]) -> PreTrainedModel:
    kind = type(built(config["model_type"], config))
    model, report = kind.from_pretrained(path, dtype="auto", output_loading_info=True)
    if any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise FindingError(f"transformers loads the grown directory with {report}")
    return model.eval()
