"""What the small run's own log says of the moment at which it is grown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptgrow.errors import CkptgrowError

if TYPE_CHECKING:
    from ckptgrow.planning.logs import Log

METRICS = "metrics.csv"


def timing_notes(source: Path, operator: str, step: int | None) -> list[str]:
    """A note where the run still learns faster than its paper's rule grows it; none where there is no log to tell.

    `source`: a checkpoint in the directory of its run, or one of transformers' Trainer; `step`: its own, beyond which
    the log is another run's matter.

    Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, section 4.
    """
    path = _log_file(source)
    if path is None:
        return []
    from ckptgrow.planning.learning_curves import FEWEST, curve_of
    from ckptgrow.planning.operators import THRESHOLDS
    from ckptgrow.planning.watching import slope_watch

    tau = next((tau for name, tau in THRESHOLDS.items() if name == operator), None)
    if tau is None:
        return []
    try:
        log = _read(path)
        seen = log.steps <= (log.steps.max() if step is None else step)
        log = replace(log, steps=log.steps[seen], losses=log.losses[seen])
        curve = curve_of(log, 1.0, 1.0)  # slopes are the same in any unit of compute
    except (CkptgrowError, OSError, ValueError, TypeError):
        return []
    if len(curve.steps) < FEWEST:
        return []
    found = slope_watch(curve, tau)
    if found.slope_interval[1] >= tau:
        return []
    low, high = found.slope_interval
    return [
        f"by its log the small run still learns fast: d log L / d log C is {found.slope:.3f} (90 %: {low:.3f} to "
        f"{high:.3f}) at step {found.step:,}, and staged training grows for {operator} when it has risen to {tau:g}. "
        "Growing earlier pays where the whole budget is short; ckptgrow plan weighs it"
    ]


def _log_file(source: Path) -> Path | None:
    """Where the evaluations are of the run that a checkpoint lies in; None where they are not kept beside it."""
    from ckptgrow.formats.sidecar_files import TRAINER_STATE

    places = (source / TRAINER_STATE, *(place / METRICS for place in (source.parent, source.parent.parent)))
    return next((path for path in places if path.is_file()), None)


def _read(path: Path) -> Log:
    import numpy as np

    from ckptgrow.planning.logs import Log, read_log

    if path.name == METRICS:
        return read_log(path)
    rows = np.array(_evaluations(path), dtype=np.float64).reshape(-1, 2)
    return Log(where=str(path.parent), steps=rows[:, 0], losses=rows[:, 1])


def _evaluations(path: Path) -> list[tuple[float, float]]:
    from ckptgrow.storage.files.json_files import read_json

    history: Any = read_json(path).get("log_history", [])
    return [(one["step"], one["eval_loss"]) for one in history if "eval_loss" in one and "step" in one]
