"""A random run of a random model, trained by real optimizers and ready to be saved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
from torch.optim import lr_scheduler

from tests.campaign import optimizers, subjects
from tests.campaign.files import State
from tests.campaign.optimizers import Recipe
from tests.campaign.precision import cast
from tests.campaign.subjects import Subject

SCHEDULES = ("none", "linear", "cosine", "step")


@dataclass(frozen=True)
class Run:
    """What is trained, by what, how long, and in what it is stored."""

    subject: Subject
    recipe: Recipe
    steps: int
    dtype: str
    schedule: str
    is_still: bool  # learning rate 0: moments gather at fixed weights

    def told(self) -> dict[str, Any]:
        """As a finding tells it."""
        return asdict(self)


def drawn(
    random: Random,
    dtypes: tuple[str, ...] = ("float64", "float64", "float64", "float32", "bfloat16", "float16", "mixed"),
    families: tuple[str, ...] = subjects.FAMILIES,
) -> Run:
    """A random run."""
    subject = subjects.drawn(random, families)
    recipe = optimizers.drawn(random, subject.model_type)
    dtype = random.choice(dtypes)
    steps = random.randrange(3, 8) if recipe.kind != "RAdam" else 7
    still = random.random() < 0.5 and dtype == "float64"
    schedule = "none" if still else random.choice(SCHEDULES)
    return Run(subject, recipe.still() if still else recipe, steps, dtype, schedule, still)


def scheduled(kind: str, opts: list[torch.optim.Optimizer]) -> list[Any]:
    """One scheduler an optimizer."""
    match kind:
        case "linear":
            return [lr_scheduler.LinearLR(one, 0.2, total_iters=10) for one in opts]
        case "cosine":
            return [lr_scheduler.CosineAnnealingLR(one, 40) for one in opts]
        case "step":
            return [lr_scheduler.StepLR(one, 3, 0.5) for one in opts]
        case _:
            return []


def trained(run: Run) -> State:
    """The run's state in float64, or trained in float32 and stored in what it says."""
    model = subjects.weighted(run.subject)
    if run.dtype != "float64":
        model = model.float()
    opts = optimizers.build(model, run.recipe)
    schedulers = scheduled(run.schedule, opts)
    optimizers.train(model, opts, subjects.batches(run.steps, seed=1), schedulers)
    if run.dtype != "float64":
        cast(model, opts, run.dtype)
    return State(run.subject, model, opts, schedulers, run.steps)
