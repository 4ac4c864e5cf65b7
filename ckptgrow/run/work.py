"""What every job of a run knows: the plan, its places, the journal, the devices, and who listens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ckptgrow.choices import Operator
from ckptgrow.growth.rho import RHO
from ckptgrow.probe.candidates import Candidate
from ckptgrow.progress import Advance
from ckptgrow.recipes.recipe_options import OPERATORS
from ckptgrow.run.devices import Devices
from ckptgrow.run.journal import Journal
from ckptgrow.run.staged_plan import PROBE, PlannedStage, StagedPlan
from ckptgrow.state.original_config import original_config
from ckptgrow.train.run_directory import CHECKPOINTS, LAST
from ckptgrow.train.step_progress import Progress

FIRST_MODEL = "first-model.json"
SEQLEN = 512  # tokens, where neither plan nor checkpoint says: the command's own


class Listener(Protocol):
    """Who hears of a run."""

    def job(self, name: str, sentence: str) -> None:
        """A job begins, or has ended with what the sentence says."""
        ...

    def stage(self, sentence: str) -> None:
        """What a job is doing now."""
        ...

    def trained(self, stage: str, progress: Progress) -> None:
        """A training step has ended."""
        ...

    def writes(self, total: int) -> Advance:
        """So many bytes will be written."""
        ...

    def tell(self, sentence: str) -> None:
        """What a user should read."""
        ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """See the module's head."""

    plan: StagedPlan
    data: Path | str
    out: Path
    journal: Journal
    devices: Devices = field(default_factory=Devices)

    def directory(self, stage: PlannedStage) -> Path:
        """Of a stage's training."""
        return self.out / stage.name

    def last(self, stage: PlannedStage) -> Path:
        """A stage's newest checkpoint."""
        return self.directory(stage) / CHECKPOINTS / LAST

    def grown(self, stage: PlannedStage, operator: Operator) -> Path:
        """What a growth writes; the last one's is what the stage begins with."""
        is_last = stage.operator is None or operator == OPERATORS[stage.operator][-1]
        return self.out / (f"{stage.name}.ckpt" if is_last else f"{stage.name}-wide.ckpt")

    def probed(self, stage: PlannedStage) -> Path:
        """Where a stage's probe trains, until its choice is grown."""
        return self.out / f"{stage.name}-probe"

    def chosen(self, stage: PlannedStage) -> Candidate | None:
        """What a stage's probe chose; None where nothing is left to it, or it has not yet."""
        result = self.journal.result(f"{stage.name}/{PROBE}") if stage.recipe == PROBE else None
        return None if result is None else Candidate(name=result["winner"], **result["recipe"]).checked(stage.name)

    def begins_with(self, number: int) -> Path | None:
        """The checkpoint that a stage goes on from; None where it begins with a new model."""
        stage = self.plan.stages[number]
        if stage.operator is not None:
            return self.grown(stage, OPERATORS[stage.operator][-1])
        return None if self.plan.checkpoint is None else Path(self.plan.checkpoint)

    @property
    def first_config(self) -> Mapping[str, Any] | None:
        """The first model's; None where a checkpoint or its weights' file has it."""
        if self.plan.init_from is not None:
            return None
        if self.plan.size is not None:
            return original_config({"size": self.plan.size, "seqlen": self.plan.stages[0].seqlen or SEQLEN})
        assert not isinstance(self.plan.config, str)
        return self.plan.config

    def write_first_config(self) -> None:
        """For the commands by hand, and for training in other processes."""
        if self.first_config is not None:
            text = json.dumps(self.first_config, indent=2) + "\n"
            (self.out / FIRST_MODEL).write_text(text, encoding="utf-8")

    def start(self, number: int) -> int:
        """The schedule's step at which a stage begins: as its growth has it, else as the plan foresees it at most."""
        stage = self.plan.stages[number]
        if stage.operator is None:
            begins_anew = self.plan.checkpoint is None or "schedule" in stage.train.get("reset", ())
            return 0 if begins_anew else self._first_step
        operators = OPERATORS[stage.operator]
        found = self.journal.result(f"{stage.name}/{operators[-1]}")
        if found is not None:
            return int(found["step"][1])
        before = self.start(number - 1) + length(self.plan.stages[number - 1])
        if isinstance(stage.restart_step, int):
            return stage.restart_step
        return round(before / RHO[operators[-1]]) if stage.restart_step == "auto" else before

    @property
    def _first_step(self) -> int:
        """Of the checkpoint that the run began with."""
        if self.journal.foreseen is not None:
            return int(self.journal.foreseen[0]["start"])
        return _stored_step(Path(str(self.plan.checkpoint)))

    def tokens_before(self, number: int) -> int:
        """That the run had seen when a stage began."""
        if number == 0:
            return 0
        found = self.journal.result(f"{self.plan.stages[number - 1].name}/train")
        return 0 if found is None else int(found["tokens"])


def length(stage: PlannedStage) -> int:
    """Optimizer steps of a stage, at most."""
    if stage.grow is not None:
        return stage.grow.at_most
    assert stage.steps is not None
    return stage.steps


def _stored_step(checkpoint: Path) -> int:
    from ckptgrow.formats.known_formats import read_checkpoint

    return read_checkpoint(checkpoint).position.global_step or 0
