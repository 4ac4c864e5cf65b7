"""Between two stages: the growth, and its verification."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptgrow.choices import Operator
from ckptgrow.growth.request import StateRequest
from ckptgrow.recipes.command_words import words_of_command
from ckptgrow.recipes.recipe_options import OPERATORS, STATE_OPTIONS, growth_options
from ckptgrow.run.staged_plan import PlannedStage
from ckptgrow.run.work import Listener, Work
from ckptgrow.storage.files.atomic import appearing
from ckptgrow.verification.verify_settings import VerifySettings


class VerificationFailed(Exception):  # noqa: N818  no fault of the request: the verdict that stops a run
    """A growth did not pass its verification."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = sentences


@dataclass(frozen=True)
class GrowJob:
    """Grows a stage's model out of the one before it, by one operator."""

    number: int
    stage: PlannedStage
    operator: Operator

    @property
    def name(self) -> str:
        """In the journal."""
        return f"{self.stage.name}/{self.operator}"

    def pair(self, work: Work) -> tuple[Path, Path]:
        """The small checkpoint and the grown one."""
        return source_of(work, self.number, self.operator), work.grown(self.stage, self.operator)

    def options(self, work: Work) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options that say what the model becomes, and what its training state: the plan's, or a probe's choice.

        The schedule moves with the last growth of a stage.
        """
        chosen = work.chosen(self.stage)
        of_model, of_state = recipe_of(self.stage, self.operator) if chosen is None else parted(chosen.growth)
        assert self.stage.operator is not None
        if self.operator != OPERATORS[self.stage.operator][-1]:
            return of_model, of_state
        planned = {"step": self.stage.restart_step, "rewarm": self.stage.rewarm or None}
        asked = {name: value for name, value in planned.items() if value is not None}
        return of_model, {**of_state, **asked} if chosen is None else {**asked, **of_state}

    def words(self, work: Work) -> list[list[str]]:
        """The command by hand."""
        of_model, of_state = self.options(work)
        return [words_of_command(self.operator, self.pair(work), {**of_model, **of_state})]

    def run(self, work: Work, listener: Listener) -> dict[str, Any]:
        """Grows; what a killed process may have left there is replaced by the same."""
        from ckptgrow.growth.growths import GROWTHS

        shutil.rmtree(work.probed(self.stage), ignore_errors=True)  # its choice is in the journal
        of_model, of_state = self.options(work)
        grow, request = GROWTHS[self.operator], StateRequest(**of_state, force=True)
        done = grow(*self.pair(work), **of_model, request=request, progress=listener.writes)
        for note in done.notes:
            listener.tell(note)
        return {
            "out": str(done.out),
            "step": list(done.step),
            "parameters": list(done.num_parameters),
            "old": done.old,
            "new": done.new,
            "trapped": done.trapped,
            "notes": list(done.notes),
        }


@dataclass(frozen=True)
class VerifyJob:
    """Verifies one growth."""

    number: int
    stage: PlannedStage
    operator: Operator

    @property
    def name(self) -> str:
        """In the journal."""
        return f"{self.stage.name}/verify-{self.operator}"

    def pair(self, work: Work) -> tuple[Path, Path]:
        """The small checkpoint and the grown one."""
        return source_of(work, self.number, self.operator), work.grown(self.stage, self.operator)

    def words(self, work: Work) -> list[list[str]]:
        """The command by hand."""
        return [words_of_command("verify", self.pair(work), work.plan.verify)]

    def run(self, work: Work, listener: Listener) -> dict[str, Any]:
        """Judges; raises VerificationFailed for a growth that lost something."""
        from ckptgrow.verification.comparison import verify

        small, grown = self.pair(work)
        report = verify(small, grown, settings=VerifySettings(**work.plan.verify), stage=listener.stage)
        tree = report.to_json()
        with appearing(grown.with_suffix(".verify.json")) as partial:
            partial.write_text(json.dumps(tree, indent=2, default=str) + "\n", encoding="utf-8")
        if not report.passed:
            raise VerificationFailed(report.sentences)
        return {
            "passed": True,
            "logits": None if report.function is None else report.function.relative,
            "moments": None if report.moments is None else report.moments.worst_relative_error,
            "asymmetry": None if report.asymmetry is None else report.asymmetry.weights,
            "sentences": report.sentences,
        }


def source_of(work: Work, number: int, operator: Operator) -> Path:
    """What an operator grows: the stage before's last checkpoint, or what the operator before it wrote."""
    stage = work.plan.stages[number]
    assert stage.operator is not None
    place = OPERATORS[stage.operator].index(operator)
    if place:
        return work.grown(stage, OPERATORS[stage.operator][place - 1])
    return work.last(work.plan.stages[number - 1])


def recipe_of(stage: PlannedStage, operator: Operator) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stage's options that one of its operators takes: of the model, and of the training state."""
    known = growth_options(operator).types
    options: Mapping[str, Any] = stage.recipe if isinstance(stage.recipe, Mapping) else {}
    of_model, of_state = parted({name: value for name, value in options.items() if name in known})
    return ({} if stage.factor is None else {"factor": stage.factor}) | of_model, of_state


def parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a growth: of the model, and of the training state."""
    of_model = {name: value for name, value in options.items() if name not in STATE_OPTIONS}
    return of_model, {name: value for name, value in options.items() if name in STATE_OPTIONS}
