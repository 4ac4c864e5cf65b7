"""What a probe trains: each candidate with each seed, the small model continued, and the large one from scratch.

An arm has a directory. What is in it says how far it is, so that a probe that was killed goes on there: training from
its newest checkpoint, with the measurements behind that made again, and a growth again where it is not whole.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptgrow.errors import DivergedError
from ckptgrow.probe.candidates import Candidate
from ckptgrow.probe.held_out import HeldOut
from ckptgrow.recipes.recipe_options import OF_BEGINNINGS
from ckptgrow.storage.files.atomic import appearing
from ckptgrow.train.guards import Interrupted
from ckptgrow.train.monitor import Look
from ckptgrow.train.run_directory import CHECKPOINTS, LAST, METRICS
from ckptgrow.train.training_run import train

Vector = npt.NDArray[np.float64]
NEVER = 10**9  # steps between what an arm does not do
GROWN = "grown"
OF_FIRST_STEP = (*OF_BEGINNINGS, "config")  # of `train`: what an arm that goes on has already


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One training. `candidate` is None for the controls, `source` for scratch, whose model is then `given`'s config;
    `start` is the schedule's step that it begins at, `given` what `train` is asked for besides.
    """

    name: str
    directory: Path
    source: Path | None
    candidate: Candidate | None
    seed: int
    start: int
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def last(self) -> Path:
        """The newest checkpoint of its training."""
        return self.directory / "out" / CHECKPOINTS / LAST

    def forget(self) -> None:
        """Makes room: the arm goes no further. What it measured stays."""
        shutil.rmtree(self.last.parent, ignore_errors=True)

    def losses_at(self, step: int) -> Path:
        """Where the held-out losses after so many steps are kept."""
        return self.directory / f"held-out-{step}.npy"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What an arm came to: held-out losses a sequence by steps since its beginning (0 for the beginning itself, which
    scratch has none of), and its log's losses and gradient norms by step; `diverged` says why it went no further.
    """

    held_out: Mapping[int, Vector]
    losses: Mapping[int, float]
    gradients: Mapping[int, float]
    diverged: str | None = None

    @property
    def is_finite(self) -> bool:
        """Whether it may be compared at all."""
        return self.diverged is None and all(np.isfinite(one).all() for one in self.held_out.values())


def advanced(arm: Arm, marks: Sequence[int], held_out: HeldOut) -> Trace:
    """Trains an arm to the last of some numbers of steps since its beginning, and measures at each of them.

    Raises Interrupted where a signal ended the training, and what growth and training raise for wrong requests.
    """
    arm.directory.mkdir(parents=True, exist_ok=True)
    last = max(marks)
    if arm.losses_at(last).exists():
        return trace_of(arm)

    def look(step: int, model: torch.nn.Module) -> None:
        steps = step - arm.start
        if steps in (0, *marks) and (steps or arm.source is not None):
            with appearing(arm.losses_at(steps)) as partial, partial.open("wb") as file:
                np.save(file, held_out.losses(model))

    try:
        _train(arm, last, look)
    except DivergedError as error:
        return trace_of(arm, diverged=str(error).partition(",")[0])
    return trace_of(arm)


def trace_of(arm: Arm, diverged: str | None = None) -> Trace:
    """What an arm's directory says."""
    files = {int(one.stem.rpartition("-")[2]): one for one in arm.directory.glob("held-out-*.npy")}
    rows = _log(arm.directory / "out" / METRICS)
    return Trace(
        held_out={steps: np.load(files[steps]) for steps in sorted(files)},
        losses={step - arm.start: float(row["loss"]) for step, row in rows.items()},
        gradients={step - arm.start: float(row["grad_norm"] or math.nan) for step, row in rows.items()},
        diverged=diverged,
    )


def _train(arm: Arm, steps: int, look: Look) -> None:
    """To so many steps since the beginning, from wherever it is."""
    given = {
        **arm.given,
        "log_every": 1,
        "val_every": NEVER,
        "save_every": NEVER,
        "keep": 1,
        "logger": "csv",
        "out": arm.directory / "out",
        "stop_at": arm.start + steps,
    }
    if arm.last.exists():
        given = {name: value for name, value in given.items() if name not in OF_FIRST_STEP}
        given["resume"] = arm.last
    elif arm.source is not None:
        given["resume"] = _beginning(arm, arm.source)
    done = train(given, look=look)
    if done.interrupted_by is not None:
        raise Interrupted(done.interrupted_by)
    _remove(arm.directory.glob(f"{GROWN}*"))


def _beginning(arm: Arm, source: Path) -> Path:
    """The checkpoint that training begins with: grown again where a killed process has not made it whole."""
    if arm.candidate is None:
        return source
    target = arm.directory / (GROWN + (source.suffix if source.is_file() else ""))
    if not target.exists():
        arm.candidate.grow(source, target, arm.seed)
    return target


def _remove(paths: Iterable[Path]) -> None:
    for one in paths:
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()


def _log(path: Path) -> dict[int, dict[str, str]]:
    """The rows of training steps by step; none where it has not begun."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["step"]): row for row in csv.DictReader(file) if row["loss"]}
