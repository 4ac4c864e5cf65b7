"""Runs of any kind as curves of loss over the compute of all that led to them.

A grown run begins at the compute that its small model had spent. Which run that was, the record in the grown checkpoint
tells: the small one's growths are the first of it, and it ended at the step from which the next growth took it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ckptgrow.errors import DataError, RequestError, listing
from ckptgrow.planning.learning_curves import curve_of
from ckptgrow.planning.logs import newest_log
from ckptgrow.report.last_saved import last_saved
from ckptgrow.report.run_record import TrainedCurve, recorded, trained_curve
from ckptgrow.run.journal import NAME as JOURNAL
from ckptgrow.train.run_directory import CHECKPOINTS, LAST, metrics_rows


@dataclass(frozen=True)
class ShownRun:
    """A run's curve, over the compute since its lineage began, and the name of the run that it was grown from."""

    curve: TrainedCurve
    grown_from: str | None


@dataclass(frozen=True, kw_only=True)
class _Trained:
    path: Path
    curve: TrainedCurve
    history: Sequence[Mapping[str, Any]]
    last_step: int


def shown_runs(paths: Sequence[Path], params: Sequence[float], tokens_per_step: float | None) -> list[ShownRun]:
    """The curves of runs: directories of `ckptgrow run` (all stages) and of `ckptgrow train`, and logs of others, for
    which `params` has the sizes in their order.

    Raises RequestError for sizes that are too few or too many, DataError for runs without a validation loss, and for
    growths that two of the runs could have led to.
    """
    sizes = list(params)
    found: list[ShownRun] = []
    trained: list[_Trained] = []
    for path in paths:
        if (path / JOURNAL).is_file():
            stages = recorded(path).curves
            names = [f"{path}/{one.name}" for one in stages]
            befores = [None, *names[:-1]]
            pairs = zip(stages, names, befores, strict=True)
            found += [ShownRun(replace(one, name=name), before) for one, name, before in pairs]
        elif (path / CHECKPOINTS / LAST).is_file() and metrics_rows(path):
            trained.append(_trained(path))
        else:
            found.append(ShownRun(_of_log(path, sizes, tokens_per_step), None))
    if sizes:
        raise RequestError(f"⟦params⟧: {len(sizes)} given for runs that say their own size; leave them out")
    found += _placed(trained)
    silent = [one.curve.name for one in found if not len(one.curve.val_losses)]
    if silent:
        raise DataError(f"{listing(silent)}: has no validation loss yet, expected a run that has been validated")
    return found


def _trained(path: Path) -> _Trained:
    saved = last_saved(path)
    return _Trained(path=path, curve=trained_curve(path, str(path), saved), history=saved.history, last_step=saved.step)


def _of_log(path: Path, sizes: list[float], tokens_per_step: float | None) -> TrainedCurve:
    """A log of another trainer; takes its size from the list."""
    log = newest_log(path)
    if not sizes or tokens_per_step is None:
        raise RequestError(
            f"{path}: is not a directory of ckptgrow, expected ⟦params N⟧ and ⟦tokens_per_step⟧ for its log"
        )
    size = sizes.pop(0)
    curve = curve_of(log, size, tokens_per_step, "none")
    nothing = np.array([], dtype=np.float64)
    return TrainedCurve(
        name=str(path), params=round(size), flops=curve.compute, val_losses=curve.losses, step_flops=nothing,
        losses=nothing, rates=nothing,
    )  # fmt: skip


def _placed(trained: Sequence[_Trained]) -> list[ShownRun]:
    """Each behind the run that it was grown from, if that is among them."""
    order = sorted(trained, key=lambda one: len(one.history))
    placed: dict[Path, ShownRun] = {}
    for one in order:
        parents = [other for other in order if _led_to(other, one)]
        if len(parents) > 1:
            raise DataError(
                f"{one.path}: may be grown from {listing(str(other.path) for other in parents)}, whose steps and "
                "growths are the same, expected one of them; name that one alone"
            )
        if not parents:
            placed[one.path] = ShownRun(one.curve, None)
            continue
        before = placed[parents[0].path].curve
        placed[one.path] = ShownRun(_behind(one.curve, before, parents[0].curve), str(parents[0].path))
    return [placed[one.path] for one in trained]


def _led_to(small: _Trained, grown: _Trained) -> bool:
    num = len(small.history)
    if num >= len(grown.history) or list(small.history) != list(grown.history[:num]):
        return False
    steps = [one["step"] for one in grown.history[num:]]
    at_once = all(after[0] == before[1] for before, after in itertools.pairwise(steps))  # as width, then depth
    return steps[0][0] == small.last_step and at_once


def _behind(curve: TrainedCurve, before: TrainedCurve, alone: TrainedCurve) -> TrainedCurve:
    """The curve, whose tokens count on from the small model's, moved behind the compute that this one had spent."""
    tokens_before = alone.spent / (6.0 * alone.params)
    shift = before.spent - 6.0 * curve.params * tokens_before
    return replace(curve, flops=curve.flops + shift, step_flops=curve.step_flops + shift)
