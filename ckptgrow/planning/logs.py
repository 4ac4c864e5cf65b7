"""Reads logs of losses: TensorBoard's CSV exports and event files, Lightning's `metrics.csv`, or a run's directory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import DataError, listing, needs
from ckptgrow.planning.csv_logs import read_table
from ckptgrow.planning.restarts import Row, surviving

Vector = npt.NDArray[np.float64]
METRICS, EVENTS = "metrics.csv", "events.out.tfevents*"
LOSS_NAMES = ("Value", "val_loss", "eval_loss", "eval/loss", "val/loss", "valid_loss", "validation_loss")
# Optimizer steps first: Weights & Biases' own `Step` and `_step` count calls of its logger
STEP_NAMES = ("trainer/global_step", "train/global_step", "Step", "step", "global_step", "_step")


@dataclass(frozen=True)
class Names:
    """The columns or tags of the loss and its steps; None for the first usual one that the log has."""

    loss: str | None = None
    step: str | None = None


USUAL = Names()


@dataclass(frozen=True, eq=False, kw_only=True)
class Log:
    """Steps and losses of a run, vectors of the same length.

    `replaced`: how many rows a restart made again; `cut`: how many rows a crash cut short.
    """

    where: str
    steps: Vector
    losses: Vector
    replaced: int = 0
    cut: int = 0


def read_log(path: Path, names: Names = USUAL) -> Log:
    """The log in a file or directory; raises DataError where there is none, or more than one."""
    if path.is_dir():
        found = sorted(logs_below(path))
        if len(found) != 1:
            listed = listing(one.relative_to(path) for one in found) or "none"
            raise DataError(f"{path}: has {len(found)} logs ({listed}), expected one {METRICS} or event directory")
        return read_log_file(found[0], names)
    return read_log_file(path, names)


def newest_log(path: Path, names: Names = USUAL) -> Log:
    """The log in a directory or below it that was written last; raises DataError where there is none."""
    if not path.is_dir():
        return read_log(path, names)
    found = logs_below(path)
    if not found:
        raise DataError(f"{path}: has no {METRICS} and no event files in it or below, expected the directory of a run")
    return read_log_file(max(found, key=lambda one: one.stat().st_mtime), names)


def logs_below(path: Path) -> list[Path]:
    """Every `metrics.csv`, or else every directory with event files; only those in the directory itself, if any."""
    for pattern in (METRICS, EVENTS):
        for found in (list(path.glob(pattern)), list(path.rglob(pattern))):
            if found:
                return found if pattern == METRICS else sorted({one.parent for one in found})
    return []


def read_log_file(path: Path, names: Names = USUAL) -> Log:
    """Reads a CSV file, a single event file, or a directory with event files in it."""
    if path.is_dir() or ".tfevents." in path.name:
        return _log(path, _events(path, names))
    table = read_table(path, lambda columns: (_step_name(path, columns, names), _loss_name(path, columns, names)))
    return _log(path, table.rows, table.cut)


def _log(path: Path, rows: Sequence[Row], cut: int = 0) -> Log:
    kept = surviving(rows, str(path))
    steps, losses = ([row[place] for row in kept] for place in (0, 1))
    return Log(where=str(path), steps=np.array(steps), losses=np.array(losses), replaced=len(rows) - len(kept), cut=cut)


def _step_name(path: Path, columns: Sequence[str], names: Names) -> str:
    if names.step is not None:
        return _column(path, columns, (names.step,), "a step")
    return _column(path, columns, STEP_NAMES, "a step; name it with ⟦step_column⟧", shown=("Step", "step"))


def _loss_name(path: Path, columns: Sequence[str], names: Names) -> str:
    """The loss's name: as asked for, else a usual one, else the only column that is `run - name` (Weights & Biases)."""
    choices = LOSS_NAMES if names.loss is None else (names.loss,)
    exported = [one for one in columns if " - " in one and one.rsplit(" - ", 1)[1] in choices]
    if len(exported) == 1 and not set(choices) & set(columns):
        return exported[0]
    return _column(path, columns, choices, "a loss; name it with ⟦loss⟧")


def _column(
    path: Path, names: Sequence[str], choices: Sequence[str], what: str, shown: Sequence[str] | None = None
) -> str:
    found = next((name for name in choices if name in names), None)
    if found is None:
        expected = " or ".join(shown or choices[:3])
        raise DataError(f"{path}: has {listing(names) or 'no columns'}, expected {expected} as {what}")
    return found


def _events(path: Path, names: Names) -> list[Row]:
    """The scalars in event files, in the order in which they were written: files by the time in their names.

    Steps are the events' own. Rows that a restart made again are left out here if it gave its first step
    (`purge_step`).
    """
    with needs(f"{path}: an event file", "plan"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the versions of what TensorBoard itself imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    accumulator: Any = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    name = _loss_name(path, [*tags["scalars"], *tags["tensors"]], names)
    if name in tags["scalars"]:
        return [(float(one.step), float(one.value)) for one in accumulator.Scalars(name)]
    from tensorboard.util.tensor_util import make_ndarray  # TensorFlow 2 writes scalars as tensors

    return [(float(one.step), float(make_ndarray(one.tensor_proto))) for one in accumulator.Tensors(name)]
