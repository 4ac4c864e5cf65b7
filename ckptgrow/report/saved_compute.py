"""What a staged run saved: its compute against what the model from scratch needed for the same validation loss.

    saving = 1 − C_staged / C_scratch(L),   L the staged run's last validation loss

Its interval is over the noise of evaluations: residuals of both curves around their smooth course are drawn in blocks,
and each pair is read again. It says nothing of other seeds.

Source: Künsch, "The Jackknife and the Bootstrap for General Stationary Observations", Annals of Statistics 17, 1989.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.planning.learning_curves import FEWEST, Curve
from ckptgrow.planning.paired_differences import NO_DIFFERENCE
from ckptgrow.planning.uncertainty import QUANTILES, RESAMPLES, centre_and_scaled_residuals, resampled
from ckptgrow.report.run_record import RunRecord, TrainedCurve, of_other_data

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SavedCompute:
    """A share of compute, with 90 % of resamples; `is_bound` where the model from scratch never got to the loss, so
    that its compute is more than what it had.
    """

    loss: float
    staged_flops: float
    scratch_flops: float
    share: float
    interval: tuple[float, float] | None
    is_bound: bool

    @property
    def sentence(self) -> str:
        """In words."""
        spread = ""
        if self.interval is not None:
            spread = f" (90 % of resamples of the evaluations' noise: {self.interval[0]:.0%} to {self.interval[1]:.0%})"
        told = (
            f"The staged run had a validation loss of {self.loss:.4f} after {self.staged_flops:.3g} FLOPs. The last "
            "model from scratch "
        )
        if self.is_bound and self.share <= 0:
            return f"{told}had spent {self.scratch_flops:.3g} and not got there: train it longer to see what is saved."
        if self.is_bound:
            return f"{told}did not get there in {self.scratch_flops:.3g}: at least {self.share:.0%} saved{spread}."
        saved = f"{self.share:.0%} saved" if self.share >= 0 else f"{-self.share:.0%} more than from scratch"
        if self.interval is not None and self.interval[0] <= 0 <= self.interval[1]:
            saved = f"{NO_DIFFERENCE} in compute, {saved}"
        return f"{told}took {self.scratch_flops:.3g} for the same: {saved}{spread}."


def saving_of(record: RunRecord) -> SavedCompute | None:
    """What the run saved; None where there is nothing to compare, or nothing that `incomparable` lets be compared."""
    scratch = record.scratch
    if scratch is None or not record.curves or not len(scratch.val_losses):
        return None
    last = record.curves[-1]
    if not len(last.val_losses) or incomparable(record):
        return None
    share, flops, is_bound = _share(last.flops, last.val_losses, scratch.flops, scratch.val_losses)
    interval = None if is_bound else _interval(last, scratch)
    return SavedCompute(
        loss=float(last.val_losses[-1]),
        staged_flops=float(last.flops[-1]),
        scratch_flops=flops,
        share=share,
        interval=interval,
        is_bound=is_bound,
    )


def incomparable(record: RunRecord) -> str:
    """Why the model from scratch says nothing of what the run saved, as a sentence; "" where it does."""
    if record.scratch is None or not record.curves:
        return ""
    last, scratch = record.curves[-1], record.scratch
    if last.params != scratch.params:
        return (
            f"The model from scratch has {scratch.params:,} parameters without embeddings, {last.name} "
            f"{last.params:,}: what was saved is told of the same model only"
        )
    return of_other_data(record.compared)


def _share(flops: Vector, losses: Vector, other_flops: Vector, other_losses: Vector) -> tuple[float, float, bool]:
    """The share saved, the other's FLOPs to the last loss (interpolated in logarithms), and whether it never got
    there.
    """
    loss = losses[-1]
    below = np.flatnonzero(other_losses <= loss)
    if not len(below):
        return float(1 - flops[-1] / other_flops[-1]), float(other_flops[-1]), True
    place = int(below[0])
    if place == 0:
        needed = float(other_flops[0])
    else:
        ends = np.log(other_losses[[place, place - 1]])
        needed = float(np.exp(np.interp(np.log(loss), ends, np.log(other_flops[[place, place - 1]]))))
    return float(1 - flops[-1] / needed), needed, False


def _interval(last: TrainedCurve, scratch: TrainedCurve) -> tuple[float, float] | None:
    """None for curves that are too short to see their noise."""
    if min(len(last.val_losses), len(scratch.val_losses)) < FEWEST:
        return None
    generator = np.random.default_rng(0)
    curves = [
        Curve(where=one.name, steps=one.flops, losses=one.val_losses, compute=one.flops) for one in (last, scratch)
    ]
    noises = [(one, *centre_and_scaled_residuals(one)) for one in curves]
    shares: list[float] = []
    for _ in range(RESAMPLES):
        one, other = (resampled(*noise, generator) for noise in noises)
        shares.append(_share(one.compute, one.losses, other.compute, other.losses)[0])
    low, high = np.quantile(shares, QUANTILES)
    return float(low), float(high)
