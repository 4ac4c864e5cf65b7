"""The settings of a training run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ckptgrow.choices import (
    Accelerator,
    Frozen,
    Logger,
    PackedDocuments,
    Precision,
    ResetPart,
    ScheduleKind,
    Strategy,
    TrainOptimizer,
    TrainRecipeName,
)
from ckptgrow.errors import RequestError
from ckptgrow.state.train_schedule import Schedule
from ckptgrow.train.growing_batches import GrowingBatches
from ckptgrow.train.train_recipes import MODERN, OF_SETTINGS, RECIPES

RUN = "run"  # the place of what is carried among a checkpoint's hyper-parameters
WHOLE_BATCH = "whole_batch"  # beside what is carried: sequences a step over all devices
MOST_TOKENS = 512  # of a sequence, where none is asked for and the model has as many positions
# what the groups of a checkpoint have already, and how a command names it
OPTIMIZER_OPTIONS = {"weight_decay": "⟦weight_decay⟧", "betas": "⟦adam_beta1⟧, ⟦adam_beta2⟧", "eps": "⟦adam_epsilon⟧"}
VALIDATION_BATCH = 32  # sequences that --val-batches counts, whatever the run's batches are

# What a run that goes on takes from its checkpoint, unless it is asked for something else.
CARRIED = (
    "train_steps",
    "batch_size",
    "grad_accum",
    "seqlen",
    "schedule",
    "min_lr_ratio",
    "warmup_steps",
    "optimizer",
    "weight_decay",
    "betas",
    "eps",
    "grad_clip",
    "seed",
    "growing",
    "save_every",
    "save_minutes",
    "keep",
    "val_every",
    "val_batches",
    "val_sequences",
    "log_every",
    "sample",
    "sample_every",
    "eval_tasks",
    "eval_every",
    "eval_limit",
    "freeze",
    "documents",
    "ema",
    "gradient_checkpointing",
)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All settings of a run; sizes are in sequences and tokens, lengths in optimizer steps.

    The defaults that a recipe decides stand in `train_recipes`; `settings_for` takes those of another recipe.
    """

    data: Path | str  # one that `ckptgrow data` wrote, or several with weights, as A:0.7,B:0.3
    out: Path
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    resume: Path | None = None
    init_from: Path | None = None
    dialect: str | None = None  # of what it goes on from or begins with, where the names alone do not tell
    reset: tuple[ResetPart, ...] = ()
    step: int | None = None
    rewarm: int | None = None  # None: right after a growth in width or depth a share of the steps, else none
    rewarm_new: tuple[float, int] | None = None  # times the rate, over steps: of what the last growth added
    freeze: Frozen = "none"
    train_steps: int = 3000
    batch_size: int = 32
    grad_accum: int = 1
    seqlen: int = MOST_TOKENS
    documents: PackedDocuments = "joined"
    lr: float | None = None  # None: by size
    recipe: TrainRecipeName = "modern"
    schedule: ScheduleKind = MODERN.schedule
    min_lr_ratio: float = MODERN.min_lr_ratio  # the last learning rate over the peak
    warmup_steps: int = MODERN.most_warmup  # `settings_for` shortens it to the run
    warmup_share: float | None = None  # of all steps, instead of a number of them
    optimizer: TrainOptimizer = "adamw"
    weight_decay: float = MODERN.weight_decay
    betas: tuple[float, float] = MODERN.betas
    eps: float = MODERN.eps
    grad_clip: float = MODERN.grad_clip
    dropout: float | None = None  # None: the recipe's for a new model, the checkpoint's for one that goes on
    ema: float = 0.0  # decay a step of the average of the weights; 0 for none
    growing: GrowingBatches = field(default_factory=GrowingBatches)
    seed: int = 3
    devices: int = 1
    num_nodes: int = 1
    strategy: Strategy = "auto"
    tensor_parallel: int = 1  # neighbouring devices that share each matrix, under fsdp
    precision: Precision = "32"
    accelerator: Accelerator = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    num_workers: int = 0
    save_every: int = 1000
    save_minutes: float = 15.0  # and after so long without one; 0 for never
    keep: int = 0
    val_every: int = 100
    val_batches: int = 50
    val_sequences: int | None = None  # None: by val_batches
    stop_at: int | None = None  # the step at which this run ends, where that is before `train_steps`
    until_slope: float | None = None  # d log L / d log C of the validations at which the run ends early
    until_loss: float | None = None  # nats of a validation at which the run ends early
    export: bool = False
    peak_flops: float | None = None  # of a device, a second; None: by its name
    log_every: int = 10
    sample: tuple[str, ...] = ()  # prompts after which the run writes texts
    sample_every: int | None = None  # None: with every validation
    eval_tasks: tuple[str, ...] = ()  # of lm-eval
    eval_every: int | None = None  # None: with every checkpoint that is due by its step
    eval_limit: float | None = None  # documents of each task, or a share of them below 1
    eval_include: Path | None = None  # a directory with definitions of tasks
    logger: Logger = "csv"

    @property
    def num_devices(self) -> int:
        """The number of devices on all nodes."""
        return self.devices * self.num_nodes

    @property
    def num_replicas(self) -> int:
        """The number of devices that see other data than each other."""
        return self.num_devices // self.tensor_parallel

    @property
    def last_step(self) -> int:
        """The step at which the run ends, unless its slope or a signal ends it earlier."""
        return self.train_steps if self.stop_at is None else min(self.stop_at, self.train_steps)

    @property
    def whole_batch(self) -> int:
        """The number of sequences per step over all devices, at its full size."""
        return self.batch_size * self.grad_accum * self.num_replicas

    @property
    def num_validated(self) -> int:
        """The largest number of sequences in a validation, the first ones of the split."""
        return self.val_batches * VALIDATION_BATCH if self.val_sequences is None else self.val_sequences

    @property
    def sampled_every(self) -> int:
        """Steps between texts."""
        return self.sample_every or self.val_every

    @property
    def evaluated_every(self) -> int:
        """Steps between scores on tasks."""
        return self.eval_every or self.save_every

    def schedule_after(self, rewarm: Mapping[str, Any] | None) -> Schedule:
        """The schedule of the learning rate; `rewarm`: `start` and `steps` of a new warm-up in a grown checkpoint."""
        rise = rewarm or {"start": 0, "steps": 0}
        return Schedule(
            kind=self.schedule,
            warmup=self.warmup_steps,
            total=self.train_steps,
            floor=self.min_lr_ratio,
            rewarm_start=int(rise["start"]),
            rewarm_steps=int(rise["steps"]),
        )

    def carried(self) -> dict[str, Any]:
        """The settings that checkpoints store, as plain values."""
        values = asdict(self)
        plain = {name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in CARRIED}
        return {**plain, WHOLE_BATCH: self.whole_batch}


def positions_of(config: Mapping[str, Any]) -> int | None:
    """The longest sequence that a model reads, in tokens, where its config tells it."""
    positions = config.get("n_positions") or config.get("max_position_embeddings")
    return positions if isinstance(positions, int) else None


def check_length(seqlen: int, config: Mapping[str, Any]) -> None:
    """Raises RequestError for sequences longer than a model of the config reads."""
    positions = positions_of(config)
    if positions is not None and seqlen > positions:
        raise RequestError(f"⟦seqlen {seqlen}⟧: expected at most the model's {positions} positions")


def settings_for(given: Mapping[str, Any], stored: Mapping[str, Any]) -> TrainSettings:
    """The settings that the user gave, else those that the checkpoint stores (`carried`), else the defaults.

    On another number of devices, steps keep their number of sequences unless batch size or accumulation is given.

    Raises RequestError where the devices cannot share these sequences evenly.
    """
    known = {one.name for one in fields(TrainSettings)}
    values = {name: value for name, value in stored.items() if name in CARRIED}
    if "val_batches" in given:
        values.pop("val_sequences", None)
    if isinstance(values.get("growing"), dict):
        values["growing"] = GrowingBatches(**values["growing"])
    values |= {name: tuple(values[name]) for name in ("betas", "sample", "eval_tasks") if name in values}
    recipe = RECIPES[given.get("recipe", "modern")]
    defaults = {name: getattr(recipe, name) for name in OF_SETTINGS}
    asked = {name: value for name, value in given.items() if name in known}
    if stored and "min_lr_ratio" not in stored:  # of a version that had none
        defaults["min_lr_ratio"] = 0.0
    found = TrainSettings(**{**defaults, **values, **asked})
    if found.warmup_share is not None:
        found = replace(found, warmup_steps=round(found.warmup_share * found.train_steps))
    elif "warmup_steps" not in {**values, **given}:
        found = replace(found, warmup_steps=recipe.warmup(found.train_steps))
    whole = stored.get(WHOLE_BATCH)
    if whole is not None and whole != found.whole_batch and not {"batch_size", "grad_accum"} & set(given):
        return _with_batch(found, int(whole))
    return found


def with_fitting_length(settings: TrainSettings, config: Mapping[str, Any], said: Collection[str]) -> TrainSettings:
    """The settings with sequences no longer than the model reads, unless their length is among what somebody said."""
    positions = positions_of(config)
    if positions is None or "seqlen" in said:
        return settings
    return replace(settings, seqlen=min(settings.seqlen, positions))


def _with_batch(settings: TrainSettings, whole: int) -> TrainSettings:
    """The settings with `whole` sequences per step, in the largest micro-batches that are no larger than before."""
    num = settings.num_replicas
    if whole % num:
        raise RequestError(
            f"⟦devices {settings.devices}⟧: {num} devices cannot share the {whole} sequences a step of "
            f"{settings.resume} evenly, expected a divisor of these; for another batch give ⟦batch_size⟧"
        )
    micro = max(one for one in range(1, settings.batch_size + 1) if whole // num % one == 0)
    return replace(settings, batch_size=micro, grad_accum=whole // num // micro)
