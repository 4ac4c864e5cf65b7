"""Logs of losses: TensorBoard's CSV export and event files, Lightning's `metrics.csv`, or a directory of them."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import DataError, MissingDependencyError, listing

Vector = npt.NDArray[np.float64]
METRICS, EVENTS = "metrics.csv", "events.out.tfevents*"
LOSS_NAMES = ("Value", "val_loss", "eval_loss", "eval/loss", "val/loss", "valid_loss", "validation_loss")
STEP_NAMES = ("Step", "step")


@dataclass(frozen=True, eq=False)
class Log:
    """Steps and losses as they stand in a log, vectors of the same length."""

    where: str
    steps: Vector
    losses: Vector


def read_log(path: Path, loss: str | None = None) -> Log:
    """The log in a file or directory; `loss` is its column or tag, else the first usual name of a validation loss.

    Raises DataError where there is none, or several.
    """
    if path.is_dir():
        found = sorted(logs_below(path))
        if len(found) != 1:
            names = listing(one.relative_to(path) for one in found) or "none"
            raise DataError(f"{path}: has {len(found)} logs ({names}), expected one {METRICS} or event directory")
        return read_log_file(found[0], loss)
    return read_log_file(path, loss)


def newest_log(path: Path, loss: str | None = None) -> Log:
    """The log that was written to last, in a directory or below it; raises DataError where there is none."""
    if not path.is_dir():
        return read_log(path, loss)
    found = logs_below(path)
    if not found:
        raise DataError(f"{path}: has no {METRICS} and no event files in it or below, expected the directory of a run")
    return read_log_file(max(found, key=lambda one: one.stat().st_mtime), loss)


def logs_below(path: Path) -> list[Path]:
    """Every `metrics.csv`, else every directory with event files; those in the directory itself hide others below."""
    for pattern in (METRICS, EVENTS):
        for found in (list(path.glob(pattern)), list(path.rglob(pattern))):
            if found:
                return found if pattern == METRICS else sorted({one.parent for one in found})
    return []


def read_log_file(path: Path, loss: str | None = None) -> Log:
    """A CSV file, a single event file, or a directory with event files in it."""
    if path.is_dir() or ".tfevents." in path.name:
        return _from_events(path, loss)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [name for name in reader.fieldnames or [] if name]
            step, value = _column(path, names, STEP_NAMES, "a step"), _loss_name(path, names, loss)
            rows = [(float(row[step]), float(row[value])) for row in reader if row[value] not in ("", None)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a CSV log or a directory") from error
    except (ValueError, UnicodeDecodeError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: has a value that is no number ({error}), expected a CSV log") from error
    return Log(str(path), np.array([row[0] for row in rows]), np.array([row[1] for row in rows]))


def _loss_name(path: Path, names: Sequence[str], asked: str | None) -> str:
    return _column(path, names, LOSS_NAMES if asked is None else (asked,), "a loss; name it with --loss")


def _column(path: Path, names: Sequence[str], choices: Sequence[str], what: str) -> str:
    found = next((name for name in choices if name in names), None)
    if found is None:
        expected = " or ".join(choices[:3])
        raise DataError(f"{path}: has {listing(names) or 'no columns'}, expected {expected} as {what}")
    return found


def _from_events(path: Path, loss: str | None) -> Log:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the versions of what TensorBoard itself imports
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise MissingDependencyError(f"{path}: event files need `pip install 'ckptgrow[plan]'`") from error
    accumulator: Any = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    name = _loss_name(path, [*tags["scalars"], *tags["tensors"]], loss)
    if name in tags["scalars"]:
        events = [(one.step, one.value) for one in accumulator.Scalars(name)]
    else:  # TensorFlow 2 writes scalars as tensors
        from tensorboard.util.tensor_util import make_ndarray

        events = [(one.step, float(make_ndarray(one.tensor_proto))) for one in accumulator.Tensors(name)]
    last = dict(events)  # a step that was done again counts once
    return Log(str(path), np.array([float(one) for one in last]), np.array([float(one) for one in last.values()]))
