"""A state of transformers as Composer would have saved it from its HuggingFaceModel: its Trainer goes on from it.

The run's clock has its steps as batches and its epochs; samples and tokens are not known and stand at zero, so that
durations and schedules go by batches or epochs. Composer finds an optimizer by the name of its class.

Source: MosaicML, Composer 0.32, `core/state.py`, `core/time.py` and `models/huggingface.py` (`get_metadata`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.places import INTEGRATED, Places

PREFIX = "model."  # what a HuggingFaceModel calls transformers' model
CLOCK = ("state", "timestamp", "Timestamp")
COUNTS = ("iteration", "epoch", "batch", "sample", "token", "epoch_in_iteration", "token_in_iteration")
PLACES_IN_EPOCH = ("batch_in_epoch", "sample_in_epoch", "token_in_epoch")
SCHEDULER = "LambdaLR"  # into which Composer turns every schedule of its own


def as_composers(checkpoint: Checkpoint, model_class: str, optimizer_class: str | None) -> tuple[Checkpoint, list[str]]:
    """A checkpoint whose tensors and optimizer have the module's names, at Composer's places, and what is left out.

    `model_class` is transformers' with its module; `optimizer_class` is None where none of torch's is known by the
    optimizer's options.
    """
    step, epoch = checkpoint.position.global_step or 0, int(checkpoint.position.epoch or 0)
    optimizers = checkpoint.optimizers[: 0 if optimizer_class is None else 1]
    schedulers = tuple(one for one in checkpoint.schedulers[:1] if "lr_lambdas" in one)
    left_out = [f"optimizer {number}" for number in range(len(optimizers), len(checkpoint.optimizers))]
    left_out += [f"scheduler {number}" for number in range(len(schedulers), len(checkpoint.schedulers))]
    left_out += ["the loss scaler"] if checkpoint.scaler else []
    places = Places(
        model=("state", "model"),
        optimizers=(("state", "optimizers", optimizer_class),) if optimizers else (),
        schedulers=(("state", "schedulers", SCHEDULER),) if schedulers else (),
        step=(*CLOCK, "batch"),
        epoch=(*CLOCK, "epoch"),
        config=(*INTEGRATED, "content"),
    )
    made = replace(
        checkpoint,
        kind="torch",
        optimizers=optimizers,
        schedulers=schedulers,
        scaler=None,
        position=replace(checkpoint.position, global_step=step),
        rest={"state": _state(checkpoint, model_class, step, epoch), "rng": None},
        carried=Carried(),
        layout=places,
    )
    return made, left_out


def _state(checkpoint: Checkpoint, model_class: str, step: int, epoch: int) -> dict[str, Any]:
    """What stands beside the model, the optimizer and the schedule: the run's clock, and whose model it is."""
    counts = {"epoch": epoch, "epoch_in_iteration": epoch, "batch": step}
    clock = {**dict.fromkeys((*COUNTS, *PLACES_IN_EPOCH), 0), **counts}
    integrated = _integrated(checkpoint.config or {}, model_class)
    return {"model": None, "timestamp": {"Timestamp": clock}, "integrations": integrated}


def _integrated(config: Mapping[str, Any], model_class: str) -> dict[str, Any]:
    """What a HuggingFaceModel without a tokenizer tells of itself."""
    told = {"file_extension": ".json", "content": dict(config), "class": model_class}
    return {"huggingface": {"model": {"config": told}, "tokenizer": {}}}
