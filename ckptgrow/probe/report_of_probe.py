"""What a probe found: every candidate with its figures, the controls, the winner, and what is level with it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptgrow.planning.paired_differences import NO_DIFFERENCE, Interval95
from ckptgrow.probe.candidates import Candidate
from ckptgrow.probe.standings import Place

if TYPE_CHECKING:
    from ckptgrow.probe.arms import Trace

TARGET = Path("grown")
WINDOW = 5  # steps over which an excess of the training loss is averaged


@dataclass(frozen=True, kw_only=True)
class ProbedCandidate:
    """A candidate. Losses in nats: `loss` on held-out sequences (the mean of its last measurements), `behind` the
    difference to the best one's at the same rung. `jump` is held-out loss right after growth less the small model's,
    `spike` the largest excess of its training loss over the small model's on the same batches, `gradients` the ratio of
    its gradients' norms to the small model's. `out` says why it cannot win; None where it can.
    """

    candidate: Candidate
    loss: float | None
    behind: Interval95 | None
    slope: float | None
    jump: float | None
    spike: float | None
    gradients: float | None
    out: str | None


@dataclass(frozen=True)
class Control:
    """What the same compute does without the growth: steps, and `loss` as a candidate's."""

    name: str
    steps: int
    loss: float | None


def entry_of(
    candidate: Candidate, place: Place | None, traces: Sequence[Trace], small: Trace, out: str | None
) -> ProbedCandidate:
    """A candidate's row; `small` is the small model continued."""
    jumps = [float((one.held_out[0] - small.held_out[0]).mean()) for one in traces if 0 in one.held_out]
    spikes = [_spike(one.losses, small.losses) for one in traces]
    ratios = [_ratio(one.gradients, small.gradients) for one in traces]
    return ProbedCandidate(
        candidate=candidate,
        loss=None if place is None else place.loss,
        behind=None if place is None else place.behind,
        slope=None if place is None else place.slope,
        jump=_mean(jumps),
        spike=_mean(spikes),
        gradients=_mean(ratios),
        out=out,
    )


def control_of(name: str, trace: Trace, steps: Sequence[int]) -> Control:
    """A control's row; its loss is the mean of its measurements at some steps, as a candidate's is."""
    is_whole = trace.is_finite and all(step in trace.held_out for step in steps)
    loss = statistics.fmean(float(trace.held_out[step].mean()) for step in steps) if is_whole else None
    return Control(name, max(trace.held_out, default=0), loss)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None and math.isfinite(one)]
    return statistics.fmean(known) if known else None


def _spike(losses: Mapping[int, float], small: Mapping[int, float]) -> float | None:
    excess = [losses[step] - small[step] for step in sorted(losses) if step in small]
    if not excess:
        return None
    return max(statistics.fmean(excess[begin : begin + WINDOW]) for begin in range(max(1, len(excess) - WINDOW + 1)))


def _ratio(gradients: Mapping[int, float], small: Mapping[int, float]) -> float | None:
    ratios = [gradients[step] / small[step] for step in gradients if small.get(step)]
    finite = [one for one in ratios if math.isfinite(one)]
    return statistics.median(finite) if finite else None


def verdict(name: str, winner: str, level: Sequence[str]) -> str:
    """What a candidate that is not out is beside the winner."""
    if name == winner:
        return "lowest" if level else "best"
    return NO_DIFFERENCE if name in level else "behind"


def ranking(winner: str, level: Sequence[str], steps: int) -> str:
    """Which recipe is best after so many steps, as far as it can be told."""
    if not level:
        return f"{winner} is best after {steps:,} steps"
    return f"{winner} has the lowest mean loss after {steps:,} steps, with {NO_DIFFERENCE} to {', '.join(level)}"


def left_behind(place: Place, steps: int) -> str:
    """Why a candidate went no further than so many steps."""
    found = f"{NO_DIFFERENCE}, left out by rank" if place.behind.holds_zero else "behind"
    return f"{found} at {steps} steps"


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """`entries` in the order of their losses, those that are out behind; `level` are the names of those whose
    interval to the winner holds zero.
    """

    source: Path
    data: Path | str
    entries: tuple[ProbedCandidate, ...]
    controls: tuple[Control, ...]
    rungs: tuple[int, ...]
    flops: float
    winner: Candidate
    level: tuple[str, ...]
    seed: int

    @classmethod
    def of(cls, *, entries: Sequence[ProbedCandidate], **fields: Any) -> ProbeReport:
        """With the winner found: the best of those that reached the last rung."""
        order = sorted(entries, key=lambda one: (one.out is not None, one.loss is None, one.loss or 0.0))
        rivals = [one for one in order[1:] if one.out is None and one.behind is not None and one.behind.holds_zero]
        level = tuple(one.candidate.name for one in rivals)
        return cls(entries=tuple(order), winner=order[0].candidate, level=level, **fields)

    @property
    def commands(self) -> list[list[str]]:
        """The winner's, word by word; the grown checkpoint is called `grown`, with the source's suffix."""
        target = TARGET.with_suffix(self.source.suffix) if self.source.is_file() else TARGET
        return self.winner.words(self.source, target, self.data, self.seed)

    def to_json(self) -> dict[str, Any]:
        """As a tree of plain values."""
        return {
            "winner": self.winner.name,
            "level": list(self.level),
            "commands": self.commands,
            "recipe": {
                "operator": self.winner.operator,
                "growth": self.winner.drawn(self.seed).growth,
                "train": self.winner.train,
            },
            "rungs": list(self.rungs),
            "flops": self.flops,
            "candidates": [_tree(one) for one in self.entries],
            "controls": [vars(one) for one in self.controls],
        }


def _tree(entry: ProbedCandidate) -> dict[str, Any]:
    behind = entry.behind
    return {
        "name": entry.candidate.name,
        "operator": entry.candidate.operator,
        "growth": entry.candidate.growth,
        "train": entry.candidate.train,
        "loss": entry.loss,
        "behind": None if behind is None else [behind.mean, behind.low, behind.high],
        "slope": entry.slope,
        "jump": entry.jump,
        "spike": entry.spike,
        "gradient_ratio": entry.gradients,
        "out": entry.out,
    }
