"""Before a growth whose recipe nobody has chosen: short trainings choose it, and the journal keeps the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckptgrow.choices import Operator
from ckptgrow.probe.candidates import TABLES, Candidate, check_names, named, typed
from ckptgrow.probe.limits import check_steps
from ckptgrow.probe.rungs import Cost, budget_of
from ckptgrow.recipes.command_words import words_of_command
from ckptgrow.recipes.model_sizes import ModelSize
from ckptgrow.recipes.recipe_options import OPERATORS
from ckptgrow.run.devices import Devices
from ckptgrow.run.staged_plan import PROBE, PlannedStage
from ckptgrow.run.train_job import StoppedBySignal, TrainJob
from ckptgrow.run.work import Listener, Work

# what a probe decides itself
OF_ARMS = ("data", "out", "until_slope", "until_loss", "stop_at", "keep", "export", "sample", "eval_tasks")


@dataclass(frozen=True)
class ProbeJob:
    """Chooses a stage's recipe."""

    number: int
    stage: PlannedStage

    @property
    def name(self) -> str:
        """In the journal."""
        return f"{self.stage.name}/{PROBE}"

    @property
    def operator(self) -> Operator:
        """By which the stage grows."""
        assert self.stage.operator is not None
        return OPERATORS[self.stage.operator][0]

    def words(self, work: Work) -> list[list[str]]:
        """The command by hand; numbers of FLOPs are what the run has spent by then."""
        asked = self.stage.probe
        one_by_one = [one for one in asked.candidates if _is_typed(one)]
        tables = tuple(one for one in asked.candidates if not _is_typed(one))
        options = {
            "data": work.data,
            "operators": self.operator,
            "factor": self.stage.factor or 2,
            "candidates": tables,
            "budget": None if asked.steps else asked.budget,
            "steps": asked.steps,
            "seeds": asked.seeds,
            "seed": asked.seed,
            "sequences": asked.sequences,
            "train": " ".join(words_of_command("train", (), self._given(work))[2:]),
        }
        words = words_of_command("probe", (work.last(work.plan.stages[self.number - 1]),), options)
        return [[*words, *(word for one in one_by_one for word in ("--candidate", one))]]

    def run(self, work: Work, listener: Listener) -> Mapping[str, Any]:
        """Probes, or goes on with it; raises StoppedBySignal where a signal came first, and what `probe` raises."""
        from ckptgrow.probe.entrants import ProbeRequest
        from ckptgrow.probe.probing import probe
        from ckptgrow.train.guards import Interrupted

        asked = self.stage.probe
        request = ProbeRequest(
            candidates=self.candidates(),
            factor=self.stage.factor or 2,
            steps=asked.steps or None,
            budget=asked.budget,
            spent=spent_before(work, self.number),
            seeds=asked.seeds,
            seed=asked.seed,
            sequences=asked.sequences,
            train=self._given(work),
            processes=work.devices.on_each,
        )
        source = work.last(work.plan.stages[self.number - 1])
        try:
            found = probe(source, work.data, work.probed(self.stage), request, listener.stage, listener.stage)
        except Interrupted as interruption:
            raise StoppedBySignal(interruption.number) from interruption
        return found.to_json()

    def check(self) -> None:
        """Raises RequestError for candidates and a budget that cannot be."""
        check_names(self.candidates())
        if self.stage.probe.steps:
            check_steps(self.stage.probe.steps)
        else:
            budget_of(self.stage.probe.budget, 1.0)

    def candidates(self) -> tuple[Candidate, ...]:
        """With the step and the re-warming that the stage says."""
        asked = self.stage.probe.candidates
        known = named([one for one in asked if not _is_typed(one)], [self.operator]) if _wants_table(asked) else []
        everyone = [*known, *(typed(one) for one in asked if _is_typed(one))]
        planned = {"step": self.stage.restart_step, "rewarm": self.stage.rewarm or None}
        of_stage = {name: value for name, value in planned.items() if value is not None}
        return tuple(replace(one, growth={**of_stage, **one.growth}) for one in everyone)

    def flops(self, size: ModelSize, tokens: int, spent: float) -> float:
        """At most, by the grown model's size, the tokens of a step and the FLOPs before."""
        asked = self.stage.probe
        if not asked.steps:
            return budget_of(asked.budget, spent)
        return Cost(runs=self.num_arms, step=size.flops(tokens), held_out=0.0).of(asked.steps)

    @property
    def num_arms(self) -> int:
        """Trainings of candidates, at most."""
        return self.stage.probe.seeds * (len(self.stage.probe.candidates) or len(TABLES[self.operator]))

    def _given(self, work: Work) -> dict[str, Any]:
        """How the stage will be trained, each arm on a device of its own."""
        alone, planned = replace(work, devices=Devices()), replace(self.stage, recipe={})
        found = TrainJob(self.number, planned).given(alone)
        return {name: value for name, value in found.items() if name not in OF_ARMS}


def spent_before(work: Work, number: int) -> float:
    """FLOPs of the stages before one, as trained."""
    results = [work.journal.result(f"{one.name}/train") for one in work.plan.stages[:number]]
    return sum(float(one["flops"]) for one in results if one is not None)


def _is_typed(text: str) -> bool:
    return len(text.split()) > 1 or text in TABLES


def _wants_table(asked: Sequence[str]) -> bool:
    return not asked or any(not _is_typed(one) for one in asked)
