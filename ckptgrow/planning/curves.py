"""Learning curves: read from logs, cleaned of spikes, with their slope in log-log."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import DataError, MissingDependencyError

Vector = npt.NDArray[np.float64]
SPIKE = 0.01  # a rise by more than this share over the last kept loss is a spike
WINDOW = 5  # evaluations that the slope's smoothing averages
FEWEST = 10  # evaluations
LOSS_COLUMNS = ("Value", "val_loss", "eval_loss")
STEP_COLUMNS = ("Step", "step")
LOSS_TAGS = ("val_loss", "eval_loss", "eval/loss", "val/loss")


@dataclass(frozen=True, eq=False)
class Curve:
    """Steps, evaluation losses (nats) and compute C = 6·N·tokens (FLOPs); vectors of the same length."""

    where: str
    steps: Vector
    losses: Vector
    compute: Vector

    def slope(self, window: int = WINDOW) -> Vector:
        """D log L / d log C between neighbouring evaluations, log L smoothed by a mean over `window` of them."""
        smoothed = smooth(np.log10(self.losses), window)
        return np.diff(smoothed) / np.diff(np.log10(self.compute))

    def index_where_slope_rises_past(self, threshold: float, window: int = WINDOW) -> int | None:
        """The first evaluation, after the steepest, at which the slope is above a threshold; None where it never is.

        Source: the rule of Shen et al., arXiv 2203.06211, section 4.
        """
        slope = self.slope(window)
        steepest = int(np.argmin(slope))
        above = np.flatnonzero(slope[steepest:] > threshold)
        return None if len(above) == 0 else steepest + int(above[0])


def smooth(values: Vector, window: int) -> Vector:
    """A centred running mean that repeats the values by reflection at both ends."""
    before, after = window // 2, window - 1 - window // 2
    padded = np.pad(values, (before, after), mode="symmetric")
    return np.convolve(padded, np.full(window, 1 / window), mode="valid")


def curve(path: Path, num_parameters: float, tokens_per_step: float) -> Curve:
    """A curve from a log, without spikes; N are parameters outside embeddings.

    Raises DataError for logs that cannot be used.
    """
    steps, losses = _without_spikes(*_checked(*read_log(path), str(path)))
    compute = 6.0 * num_parameters * tokens_per_step * steps
    return Curve(str(path), steps, losses, compute)


def read_log(path: Path) -> tuple[Vector, Vector]:
    """Steps and losses from TensorBoard's CSV export, Lightning's `metrics.csv`, or a directory of event files."""
    if path.is_dir():
        return _from_events(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            step = next((name for name in STEP_COLUMNS if name in names), None)
            loss = next((name for name in LOSS_COLUMNS if name in names), None)
            if step is None or loss is None:
                raise DataError(
                    f"{path}: has columns {', '.join(names) or 'none'}, expected {' or '.join(STEP_COLUMNS)} and "
                    f"{' or '.join(LOSS_COLUMNS)}"
                )
            rows = [(float(row[step]), float(row[loss])) for row in reader if row[loss] not in ("", None)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a CSV log or a directory") from error
    except (ValueError, UnicodeDecodeError, TypeError) as error:
        raise DataError(f"{path}: has a value that is no number ({error})") from error
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def _from_events(path: Path) -> tuple[Vector, Vector]:
    csv_files = sorted(path.rglob("metrics.csv"))
    if csv_files and not list(path.rglob("events.out.tfevents*")):
        parts = [read_log(file) for file in csv_files]
        merged = {step: loss for steps, losses in parts for step, loss in zip(steps, losses, strict=True)}
        return np.array(sorted(merged)), np.array([merged[step] for step in sorted(merged)])
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise MissingDependencyError(f"{path}: event files need `pip install 'ckptgrow[plan]'`") from error
    accumulator: Any = EventAccumulator(str(path), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    tag = next((one for one in LOSS_TAGS if one in tags), None)
    if tag is None:
        raise DataError(f"{path}: has scalars {', '.join(tags) or 'none'}, expected one of {', '.join(LOSS_TAGS)}")
    events = accumulator.Scalars(tag)
    return np.array([float(one.step) for one in events]), np.array([float(one.value) for one in events])


def _checked(steps: Vector, losses: Vector, where: str) -> tuple[Vector, Vector]:
    if len(steps) < FEWEST:
        raise DataError(f"{where}: has {len(steps)} evaluations, expected at least {FEWEST}")
    if not bool((np.diff(steps) > 0).all()):
        place = int(np.flatnonzero(np.diff(steps) <= 0)[0]) + 1
        raise DataError(f"{where}: step {steps[place]:g} follows {steps[place - 1]:g}, expected increasing steps")
    bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss) or loss <= 0]
    if bad:
        raise DataError(
            f"{where}: the loss at step {steps[bad[0]]:g} is {losses[bad[0]]}, expected a number above zero"
        )
    positive = steps > 0
    return steps[positive], losses[positive]


def _without_spikes(steps: Vector, losses: Vector) -> tuple[Vector, Vector]:
    kept: list[int] = []
    for index, loss in enumerate(losses):
        if not kept or loss <= losses[kept[-1]] * (1 + SPIKE):
            kept.append(index)
    return steps[kept], losses[kept]
