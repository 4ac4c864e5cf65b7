"""Who takes part in a probe: the candidates that their growths accept, and what each of them and the controls train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ckptgrow.errors import CkptgrowError, RequestError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.growth.request import GrowthResult
from ckptgrow.probe.arms import Arm
from ckptgrow.probe.candidates import Candidate
from ckptgrow.probe.held_out import HeldOut
from ckptgrow.probe.rungs import marks_of
from ckptgrow.probe.side_by_side import Task
from ckptgrow.recipes.model_sizes import ModelSize, size_of
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.opening import architecture_in
from ckptgrow.storage.files.atomic import check_space
from ckptgrow.train.resuming import TOKENS
from ckptgrow.train.settings import RUN, TrainSettings, positions_of, settings_for

LONGEST = 2**31  # steps that a schedule without an end is given, so that no warm-up of a candidate is beyond it
SMALL, SCRATCH = "small model continued", "large model from scratch"


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What is asked for. `steps` are the rungs, else `budget` pays them: FLOPs, or a share as "2%" of `spent`, which is
    what the checkpoint's tokens took where it is None. `seeds` draws of each recipe that draws, from `seed` on;
    `sequences` held-out ones; `train`: options of training for all; `processes` at once.
    """

    candidates: tuple[Candidate, ...]
    factor: int = 2
    steps: tuple[int, ...] | None = None
    budget: str = "2%"
    spent: float | None = None
    seeds: int = 1
    seed: int = 0
    sequences: int = 256
    train: Mapping[str, Any] = field(default_factory=dict[str, Any])
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A candidate that its growth accepts, and what it becomes."""

    candidate: Candidate
    result: GrowthResult
    size: ModelSize


@dataclass(kw_only=True)
class Entrants:
    """See the module's head; `out` says of candidates why they do not take part."""

    source: Path
    data: Path | str
    work: Path
    request: ProbeRequest
    out: dict[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def small(self) -> Checkpoint:
        """The checkpoint, its tensors not read."""
        return read_checkpoint(self.source)

    @cached_property
    def architecture(self) -> Architecture:
        """The checkpoint's architecture."""
        return architecture_in(self.small)

    @cached_property
    def grown(self) -> dict[str, Entrant]:
        """The candidates that can be, by name; the others are noted with what is wrong with them."""
        found: dict[str, Entrant] = {}
        for asked in self.request.candidates:
            candidate = asked.by(self.request.factor)
            try:
                result: GrowthResult = candidate.grow(self.source, None, self.request.seed)
            except CkptgrowError as error:
                self.out[asked.name] = f"refused: {error}"
                continue
            if result.trapped:
                self.out[asked.name] = "trapped: its copies would stay equal for ever"
            found[asked.name] = Entrant(candidate=candidate, result=result, size=size_of(result.config))
        if not set(found) - set(self.out):
            reasons = listing(f"{name} ({reason})" for name, reason in self.out.items())
            raise RequestError(f"no candidate is left of {len(self.request.candidates)}: {reasons}; name others")
        return found

    @property
    def names(self) -> list[str]:
        """Those that take part."""
        return [name for name in self.grown if name not in self.out]

    @cached_property
    def reference(self) -> Entrant:
        """Whose steps are counted: others of another size take as many as cost the same."""
        return self.grown[self.names[0]]

    @cached_property
    def settings(self) -> TrainSettings:
        """Of the training that goes on from the checkpoint."""
        given = {**self.common, "data": self.data, "out": self.work}
        found = settings_for(given, self.stored)
        positions = positions_of(self.architecture.config)
        if positions is None or "seqlen" in {**self.stored, **given}:
            return found
        return replace(found, seqlen=min(found.seqlen, positions))

    @cached_property
    def common(self) -> dict[str, Any]:
        """What every arm is asked for: the planned options, by default at a constant rate; what was given overrules."""
        asked = {"schedule": "constant", **self.request.train}
        total = {"train_steps": LONGEST} if asked["schedule"] == "constant" else {}
        return {**total, **asked} if self.stored else {**total, "warmup_steps": 0, **asked}

    @cached_property
    def stored(self) -> Mapping[str, Any]:
        """The settings of the checkpoint's own run; none of another trainer's."""
        arguments: Any = self.small.rest.get("hyper_parameters")
        return arguments.get(RUN, {}) if isinstance(arguments, dict) else {}

    @property
    def num_draws(self) -> Mapping[str, int]:
        """Of each candidate."""
        return {name: self.request.seeds if self.grown[name].candidate.draws else 1 for name in self.names}

    def spent(self) -> float | None:
        """FLOPs that the checkpoint's tokens took, 6 · parameters · tokens, by its size of now."""
        if self.request.spent is not None:
            return self.request.spent
        seen = self.small.rest.get(TOKENS)
        steps = self.small.position.global_step
        if not isinstance(seen, int):
            seen = None if steps is None else steps * self.settings.whole_batch * self.settings.seqlen
        return None if not seen else self.small_size.flops(seen)

    @cached_property
    def small_size(self) -> ModelSize:
        """Of the checkpoint."""
        return size_of(self.architecture.config)

    def check_room(self) -> None:
        """Raises RequestError where the disk has not what all arms take at once."""
        runs = [self.grown[name].size.state_bytes * num for name, num in self.num_draws.items()]
        self.work.mkdir(parents=True, exist_ok=True)
        there = sum(one.stat().st_size for one in self.work.rglob("*") if one.is_file())
        needed = 2 * max(runs) + sum(runs) + self.reference.size.state_bytes + 2 * self.small_size.state_bytes
        check_space(self.work / "candidates", max(0, needed - there))

    def steps_at(self, size: ModelSize, mark: int) -> int:
        """Steps of a model that cost what so many of the reference's do."""
        return max(1, round(mark * self.reference.size.without_embeddings / size.without_embeddings))

    def control_steps(self, name: str, marks: Sequence[int]) -> tuple[int, ...]:
        """At which steps a control is measured."""
        return self._steps_at(self.small_size, marks) if name == SMALL else tuple(marks)

    def _steps_at(self, size: ModelSize, marks: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted({self.steps_at(size, mark) for mark in marks}))

    def task(self, name: str, draw: int, rung: int) -> Task:
        one, start = self.grown[name], self.grown[name].result.step[1] or 0
        number = list(self.grown).index(name)
        arm = Arm(
            name=name,
            directory=self.work / f"candidate-{number}-{draw}",
            source=self.source,
            candidate=one.candidate,
            seed=self.request.seed + draw,
            start=start,
            given={**self._given, **one.candidate.training},
        )
        return Task(arm, self._steps_at(one.size, marks_of(rung)))

    @property
    def _given(self) -> dict[str, Any]:
        return {"data": self.data, **self.common}

    @property
    def _of_control(self) -> dict[str, Any]:
        """At a constant rate: a control may have many more steps than the plan."""
        return {**self._given, "schedule": "constant", "train_steps": LONGEST}

    def check_length(self, steps: int) -> None:
        """Raises RequestError where the schedule has not so many steps of the reference left."""
        total = self.common.get("train_steps", self.settings.train_steps)
        for name in self.names:
            one = self.grown[name]
            end = (one.result.step[1] or 0) + self.steps_at(one.size, steps)
            if end > total:
                raise RequestError(
                    f"⟦steps {steps}⟧: {name} would end at step {end:,}, expected at most the schedule's {total:,}; "
                    "give fewer, or more ⟦train_steps⟧"
                )

    def small_task(self, rung: int) -> Task:
        arm = Arm(
            name=SMALL,
            directory=self.work / "small",
            source=self.source,
            candidate=None,
            seed=0,
            start=self.small.position.global_step or 0,
            given=self._of_control,
        )
        return Task(arm, self._steps_at(self.small_size, marks_of(rung)))

    def scratch_task(self, rung: int) -> Task:
        carried = {**self.settings.carried(), "growing": self.settings.growing, "betas": self.settings.betas}
        carried = {name: value for name, value in carried.items() if name != "whole_batch"}
        given = {
            **carried,
            **self._of_control,
            "config": dict(self.reference.result.config),
            "warmup_steps": rung // 10,
        }
        for name in ("reset", "step", "rewarm", "rewarm_new", "lr", "freeze", "param_order"):
            given.pop(name, None)
        arm = Arm(
            name=SCRATCH, directory=self.work / "scratch", source=None, candidate=None, seed=0, start=0, given=given
        )
        return Task(arm, marks_of(rung))

    def identity(self) -> dict[str, Any]:
        """What arms depend on: of another one they would be others."""
        request = self.request
        return {
            "source": str(self.source),
            "step": self.small.position.global_step,
            "data": str(self.data),
            "candidates": [vars(one) for one in request.candidates],
            "factor": request.factor,
            "seeds": [request.seed, request.seeds],
            "sequences": request.sequences,
            "train": dict(request.train),
        }

    @property
    def held_out(self) -> HeldOut:
        """What all are measured on."""
        return HeldOut(self.data, self.settings.seqlen, self.request.sequences, self.settings.documents)
