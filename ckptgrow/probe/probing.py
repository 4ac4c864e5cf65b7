"""The probe: candidates are grown, trained over the same batches, measured on the same held-out sequences, and halved.

Protocol: all that are left go to the next rung (`rungs`), and the half with the lower losses goes on (`standings`). A
candidate is out at once where its growth refuses, where it is trapped by construction, and where its loss is no finite
number. Two controls go all the way: the small model continued for as many FLOPs, and the large model from scratch for
as many. Loss right after growth does not choose: short trainings do.

Sources: Jamieson and Talwalkar, arXiv 1502.07943 (successive halving); "Landscape-aware growing", arXiv 2406.02469
(loss after a short lag ranks growths, loss at their first step misleads).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ckptgrow.errors import RequestError, listing
from ckptgrow.probe.arms import Trace
from ckptgrow.probe.candidates import check_names
from ckptgrow.probe.entrants import SCRATCH, SMALL, Entrants, ProbeRequest
from ckptgrow.probe.limits import check_steps
from ckptgrow.probe.report_of_probe import ProbeReport, control_of, entry_of, left_behind
from ckptgrow.probe.rungs import Cost, budget_of, groups_of, half, marks_of, rungs_within
from ckptgrow.probe.side_by_side import Task, all_advanced
from ckptgrow.probe.standings import Measured, Place, ranked
from ckptgrow.storage.files.json_files import write_text

Tell = Callable[[str], None]
REQUEST = "probe.json"  # in the directory of the arms: what they are of


def probe(
    source: Path,
    data: Path | str,
    work: Path,
    request: ProbeRequest,
    tell: Tell = lambda sentence: None,
    stage: Tell = lambda sentence: None,
) -> ProbeReport:
    """Compares recipes of growing a checkpoint; `work` is where they are trained, and where a probe that was killed
    goes on. `tell` hears what was found, `stage` what is being done.

    Raises RequestError for what cannot be asked for, Interrupted where a signal ended it, and what growth and training
    raise.
    """
    check_names(request.candidates)
    return _Probe(entrants=Entrants(source=source, data=data, work=work, request=request), tell=tell, stage=stage).run()


@dataclass(kw_only=True)
class _Probe:
    entrants: Entrants
    tell: Tell
    stage: Tell
    traces: dict[str, list[Trace]] = field(default_factory=dict[str, list[Trace]])
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    dropped: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def left(self) -> list[str]:
        """The names of those that go on."""
        return [name for name in self.entrants.names if name not in self.dropped]

    def run(self) -> ProbeReport:
        """See the module's head."""
        entrants, sequences = self.entrants, self.entrants.request.sequences
        length, batch = entrants.settings.seqlen, entrants.settings.whole_batch
        cost = Cost.by_size(
            entrants.reference.size,
            runs=sum(entrants.num_draws.values()),
            batch=batch,
            sequences=sequences,
            seqlen=length,
        )
        rungs = self._rungs(cost)
        entrants.check_length(rungs[-1])
        self._begin()
        self.tell(
            f"{len(entrants.names)} candidates, {listing(entrants.names, limit=99)}; rungs at "
            f"{', '.join(map(str, rungs))} steps of {batch * length:,} tokens; {cost.of(rungs):.3g} FLOPs with two "
            "controls"
        )
        for name, reason in entrants.out.items():
            self.tell(f"{name}: {reason}")
        for rung in rungs:
            self._climb(rung)
            self._rank(rung)
            if rung != rungs[-1]:
                self._halve(rung)
        return self._report(rungs, cost.of(rungs))

    def _rungs(self, cost: Cost) -> tuple[int, ...]:
        request = self.entrants.request
        if request.steps is not None:
            return check_steps(request.steps)
        return rungs_within(budget_of(request.budget, self.entrants.spent()), cost)

    def _begin(self) -> None:
        """Makes the directory this probe's; raises RequestError where it is another one's, or the disk is full."""
        entrants = self.entrants
        entrants.held_out.check()
        entrants.check_room()
        path, text = entrants.work / REQUEST, json.dumps(entrants.identity(), indent=2, default=str) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise RequestError(f"⟦work {entrants.work}⟧: is of another probe; remove it, or choose another")
        write_text(path, text)

    def _climb(self, rung: int) -> None:
        """Trains all that are left, and the controls, to a rung."""
        entrants = self.entrants
        tasks = [entrants.task(name, draw, rung) for name in self.left for draw in range(entrants.num_draws[name])]
        tasks += [entrants.small_task(rung), entrants.scratch_task(rung)]
        done = all_advanced(tasks, entrants.held_out, entrants.request.processes, self._begun, self._heard)
        self.traces |= {task.arm.name: [] for task in tasks}
        for task, trace in zip(tasks, done, strict=True):
            self.traces[task.arm.name].append(trace)
            if not trace.is_finite and task.arm.candidate is not None:
                found = trace.diverged or "held-out losses are no finite numbers"
                entrants.out[task.arm.name] = f"diverged: {found}"
        if not self.left:
            raise RequestError("every candidate diverged, expected one that trains; lower ⟦lr⟧")

    def _begun(self, task: Task) -> None:
        self.stage(f"training {task.arm.name} to step {task.marks[-1]}")

    def _heard(self, task: Task, trace: Trace) -> None:
        steps = max(trace.held_out, default=0)
        is_known = trace.is_finite and trace.held_out
        loss = f"held-out loss {trace.held_out[steps].mean():.4f} there" if is_known else trace.diverged
        self.tell(f"{task.arm.name}: step {steps}, {loss}")

    def _rank(self, rung: int) -> None:
        """Those that are left, by what they measured up to a rung."""
        marks, runs = marks_of(rung), dict[str, Sequence[Measured]]()
        for name in self.left:
            size = self.entrants.grown[name].size
            steps: Mapping[int, int] = {mark: self.entrants.steps_at(size, mark) for mark in marks}
            runs[name] = [{mark: one.held_out[step] for mark, step in steps.items()} for one in self.traces[name]]
        found = ranked(runs, groups_of(rung), self.entrants.request.seed)
        self.places |= {place.name: place for place in found}

    def _halve(self, rung: int) -> None:
        """Drops those that are behind the middle."""
        order = sorted(self.left, key=lambda name: self.places[name].loss)
        for name in order[half(len(order)) :]:
            self.dropped[name] = rung
            for draw in range(self.entrants.num_draws[name]):
                self.entrants.task(name, draw, rung).arm.forget()

    def _report(self, rungs: tuple[int, ...], flops: float) -> ProbeReport:
        entrants, small = self.entrants, self.traces[SMALL][0]
        entries = [
            entry_of(
                entrants.grown[asked.name].candidate if asked.name in entrants.grown else asked,
                None if asked.name in entrants.out else self.places.get(asked.name),
                self.traces.get(asked.name, ()),
                small,
                entrants.out.get(asked.name) or self._of_dropping(asked.name),
            )
            for asked in entrants.request.candidates
        ]
        return ProbeReport.of(
            source=entrants.source,
            data=entrants.data,
            entries=entries,
            controls=tuple(
                control_of(name, self.traces[name][0], entrants.control_steps(name, groups_of(rungs[-1])[-1]))
                for name in (SMALL, SCRATCH)
            ),
            rungs=rungs,
            flops=flops,
            seed=entrants.request.seed,
        )

    def _of_dropping(self, name: str) -> str | None:
        return left_behind(self.places[name], self.dropped[name]) if name in self.dropped else None
