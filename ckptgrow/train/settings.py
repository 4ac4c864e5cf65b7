"""What a training run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ckptgrow.checkpoints.course import Kind, Schedule
from ckptgrow.train.order import Growing

RUN, DATA = "run", "data"  # their places in a checkpoint's hyper-parameters

# What a run that goes on takes from its checkpoint, unless it is asked for something else.
CARRIED = (
    "train_steps",
    "batch_size",
    "grad_accum",
    "seqlen",
    "schedule",
    "warmup_steps",
    "weight_decay",
    "betas",
    "eps",
    "grad_clip",
    "seed",
    "growing",
)

ResetPart = Literal["optimizer", "schedule", "data"]


@dataclass(frozen=True)
class TrainSettings:
    """All of it; sizes in sequences and tokens, lengths in optimizer steps. Defaults are the staged-training script's
    where they still make sense.
    """

    data: Path
    out: Path
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    resume: Path | None = None
    init_from: Path | None = None
    reset: tuple[ResetPart, ...] = ()
    step: int | None = None
    rewarm: int = 0
    train_steps: int = 3000
    batch_size: int = 32
    grad_accum: int = 1
    seqlen: int = 512
    lr: float | None = None  # None: by size
    schedule: Kind = "linear"
    warmup_steps: int = 1000
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    grad_clip: float = 0.0
    growing: Growing = field(default_factory=Growing)
    seed: int = 3
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32"
    accelerator: str = "auto"
    compile: bool = False
    num_workers: int = 0
    save_every: int = 1000
    keep: int = 0
    val_every: int = 100
    val_batches: int = 50
    log_every: int = 10
    logger: str = "csv"

    def schedule_after(self, rewarm: Mapping[str, Any] | None) -> Schedule:
        """The learning rate's course; `rewarm` is the `start` and `steps` of a rise, as grown checkpoints record it."""
        rise = rewarm or {"start": 0, "steps": 0}
        return Schedule(self.schedule, self.warmup_steps, self.train_steps, int(rise["start"]), int(rise["steps"]))

    def carried(self) -> dict[str, Any]:
        """The part that goes into checkpoints, as plain values."""
        values = asdict(self)
        return {name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in CARRIED}


def settings_for(given: Mapping[str, Any], stored: Mapping[str, Any]) -> TrainSettings:
    """What was asked for, else what the checkpoint's run had (`carried`), else the defaults."""
    known = {one.name for one in fields(TrainSettings)}
    values = {name: value for name, value in stored.items() if name in CARRIED}
    if isinstance(values.get("growing"), dict):
        values["growing"] = Growing(**values["growing"])
    if "betas" in values:
        values["betas"] = tuple(values["betas"])
    return TrainSettings(**{**values, **{name: value for name, value in given.items() if name in known}})
