"""Learning curves without spikes, and their slopes in log-log."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ckptgrow.choices import SpikeRule
from ckptgrow.errors import DataError
from ckptgrow.planning.logs import USUAL, Log, Names, read_log
from ckptgrow.planning.spikes import RULES

Vector = npt.NDArray[np.float64]
WINDOW = 5  # evaluations that the slope's smoothing averages
FEWEST = 10  # evaluations


MANY = 0.1  # of a log's evaluations: a rule that takes more of them for spikes does not fit the log


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """How many of a log's `rows` were left out of its curve.

    `spikes`: those that are spikes by `rule`; `replaced`: those that a restarted run made again; `cut`: those that a
    crash cut short; `at_zero`: those at step 0 or before.
    """

    rule: SpikeRule = "none"
    rows: int = 0
    spikes: int = 0
    replaced: int = 0
    cut: int = 0
    at_zero: int = 0

    @property
    def sentence(self) -> str:
        """A sentence on what was left out; empty where nothing was."""
        parts = (
            (self.spikes, f"as spikes (--spikes {self.rule})"),
            (self.replaced, "that a restart did again"),
            (self.cut, "cut short by a crash"),
            (self.at_zero, "at step 0 or before, which has no compute"),
        )
        said = "; ".join(f"{num:,} {why}" for num, why in parts if num)
        return f"left out of {self.rows:,} evaluations: {said}" if said else ""

    @property
    def is_doubtful(self) -> bool:
        """Whether so many evaluations are spikes by the rule that they are probably noise."""
        return self.spikes > MANY * (self.rows - self.replaced - self.cut - self.at_zero)


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """A learning curve: steps, losses (nats) and compute C = 6·N·tokens (FLOPs), vectors of the same length."""

    where: str
    steps: Vector
    losses: Vector
    compute: Vector
    cleaning: Cleaning = Cleaning()

    def slope(self, window: int = WINDOW) -> Vector:
        """d log L / d log C between neighbouring evaluations; log L is smoothed by a mean over `window` of them."""
        smoothed = smooth(np.log10(self.losses), window)
        return np.diff(smoothed) / np.diff(np.log10(self.compute))

    def index_where_slope_rises_past(self, threshold: float, window: int = WINDOW) -> int | None:
        """The first evaluation after the steepest one at which the slope is above a threshold; None where it never is.

        The last evaluations are left out, whose window reaches beyond the curve: there the smoothing repeats the
        curve's end, which makes any curve flat.

        Source: the rule of Shen et al., arXiv 2203.06211, section 4.
        """
        slope = self.slope(window)[: len(self.steps) - window + window // 2]
        steepest = int(np.argmin(slope))
        above = np.flatnonzero(slope[steepest:] > threshold)
        return None if len(above) == 0 else steepest + int(above[0])

    def with_losses(self, losses: Vector) -> Curve:
        """The same evaluations with other losses."""
        return replace(self, losses=losses)

    def after(self, step: float) -> Curve:
        """The curve without evaluations before a step; raises DataError where too few are left."""
        kept = self.steps >= step
        if kept.sum() < FEWEST:
            raise DataError(f"{self.where}: has {kept.sum()} evaluations from step {step:g} on, expected {FEWEST}")
        return replace(self, steps=self.steps[kept], losses=self.losses[kept], compute=self.compute[kept])


def smooth(values: Vector, window: int) -> Vector:
    """A centred running mean that repeats the values by reflection at both ends."""
    before, after = window // 2, window - 1 - window // 2
    padded = np.pad(values, (before, after), mode="symmetric")
    return np.convolve(padded, np.full(window, 1 / window), mode="valid")


def curve(
    path: Path, num_parameters: float, tokens_per_step: float, names: Names = USUAL, rule: SpikeRule = "robust"
) -> Curve:
    """A curve from a log file or directory, without spikes; raises DataError for logs that cannot be used.

    `num_parameters`: without embeddings; `names`: the columns of loss and step; `rule`: which evaluations are spikes.
    """
    return curve_of(read_log(path, names), num_parameters, tokens_per_step, rule)


def curve_of(log: Log, num_parameters: float, tokens_per_step: float, rule: SpikeRule = "robust") -> Curve:
    """A curve from a log that has been read, as `curve` makes it."""
    steps, losses = _checked(log)
    at_zero = len(log.steps) - len(steps)
    kept = RULES[rule](losses)
    rows = len(log.steps) + log.replaced + log.cut
    cleaning = Cleaning(
        rule=rule, rows=rows, spikes=int((~kept).sum()), replaced=log.replaced, cut=log.cut, at_zero=at_zero
    )
    compute = 6.0 * num_parameters * tokens_per_step * steps[kept]
    return Curve(where=log.where, steps=steps[kept], losses=losses[kept], compute=compute, cleaning=cleaning)


def _checked(log: Log) -> tuple[Vector, Vector]:
    steps, losses = log.steps, log.losses
    if len(steps) < FEWEST:
        raise DataError(f"{log.where}: has {len(steps)} evaluations, expected at least {FEWEST}")
    if not bool((np.diff(steps) > 0).all()):
        place = int(np.flatnonzero(~(np.diff(steps) > 0))[0]) + 1
        raise DataError(f"{log.where}: step {steps[place]:g} follows {steps[place - 1]:g}, expected increasing steps")
    bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss) or loss <= 0]
    if bad:
        raise DataError(
            f"{log.where}: the loss at step {steps[bad[0]]:g} is {losses[bad[0]]}, expected a number above zero"
        )
    positive = steps > 0
    if positive.sum() < FEWEST:
        raise DataError(
            f"{log.where}: has {positive.sum()} evaluations after step 0, expected at least {FEWEST}; a slope needs "
            "compute above zero"
        )
    return steps[positive], losses[positive]
