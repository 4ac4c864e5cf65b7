"""What the stages of a run that has begun take, by its journal: where it stands is told without making a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptgrow.recipes.model_sizes import ModelSize
from ckptgrow.run.work import Work

if TYPE_CHECKING:
    from ckptgrow.run.forecast import Forecast


@dataclass(frozen=True, kw_only=True)
class ForeseenStage:
    """A stage's model, the step at which it begins, its steps at most, and their FLOPs."""

    size: ModelSize
    start: int
    steps: int
    flops: float


def foreseen(work: Work) -> tuple[ForeseenStage, ...]:
    """All stages; a run of a version that kept none of it is foreseen anew."""
    told = work.journal.foreseen
    if told is None:
        from ckptgrow.run.forecast import forecast

        told = as_trees(forecast(work))
    return tuple(_stage(one) for one in told)


def as_trees(found: Forecast) -> list[dict[str, Any]]:
    """A forecast as the journal keeps it."""
    return [
        {
            "name": one.stage.name,
            "parameters": one.size.total,
            "without_embeddings": one.size.without_embeddings,
            "start": one.start,
            "steps": one.steps,
            "flops": one.flops,
        }
        for one in found.stages
    ]


def _stage(tree: Mapping[str, Any]) -> ForeseenStage:
    size = ModelSize(int(tree["parameters"]), int(tree["without_embeddings"]))
    return ForeseenStage(size=size, start=int(tree["start"]), steps=int(tree["steps"]), flops=float(tree["flops"]))
