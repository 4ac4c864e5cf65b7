"""One JSON file a run: its settings and its curve. What is there is never done again."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.savings.arms import Arm
from benchmarks.savings.measures import Point
from benchmarks.savings.shapes import Cost
from benchmarks.savings.tiers import TEXTS, Piece


@dataclass(frozen=True)
class Row:
    """A validation: steps of the run, tokens and FLOPs of it and all that it began from, loss in nats."""

    step: int
    tokens: int
    without: float
    whole: float
    loss: float

    @property
    def cost(self) -> Cost:
        """The FLOPs."""
        return Cost(self.without, self.whole)


@dataclass(frozen=True)
class Result:
    """A run that has ended. `logged` are training losses by the tokens seen; `went_wrong` says why it diverged."""

    arm: Mapping[str, Any]
    rows: tuple[Row, ...]
    logged: Mapping[int, float]
    seconds: float
    went_wrong: str = ""

    @property
    def final(self) -> float:
        """The loss at the end; infinite where the run diverged."""
        return math.inf if self.went_wrong else self.rows[-1].loss

    def points(self, measure: str) -> list[Point]:
        """The curve over compute "whole" or "without" embeddings."""
        return [(getattr(row, measure), row.loss) for row in self.rows]


class Results:
    """Those of a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._read: dict[str, Result] = {}

    def get(self, arm: Arm) -> Result | None:
        """A run's result; None where it has not ended.

        Raises SystemExit where a run of the same name had other settings.
        """
        if arm.name not in self._read:
            path = self._path(arm)
            if not path.exists():
                return None
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["arm"] != json.loads(json.dumps(arm.as_json())):
                raise SystemExit(f"{path}: is of other settings than {arm.name} has now; give another --out")
            rows = tuple(Row(*values) for values in tree["rows"])
            logged = {int(tokens): loss for tokens, loss in tree["logged"]}
            self._read[arm.name] = Result(tree["arm"], rows, logged, tree["seconds"], tree["went_wrong"])
        return self._read[arm.name]

    def write(self, arm: Arm, result: Result) -> None:
        """Whole or not at all."""
        tree = {
            "arm": arm.as_json(),
            "rows": [[row.step, row.tokens, row.without, row.whole, row.loss] for row in result.rows],
            "logged": list(result.logged.items()),
            "seconds": result.seconds,
            "went_wrong": result.went_wrong,
        }
        path = self._path(arm)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(tree), encoding="utf-8")
        partial.replace(path)

    def _path(self, arm: Arm) -> Path:
        return self.directory / f"{arm.name}.json"


def read_run(piece: Piece, arm: Arm, parent: Result | None, run: Path, seconds: float, went_wrong: str = "") -> Result:
    """A run's result from its `metrics.csv` and, where it has a start, from its parent's curve up to there.

    Raises ValueError where the parent was never validated at the start.
    """
    before, began, spent = (), 0, Cost(0, 0)
    if arm.start is not None and parent is not None:
        began = arm.start.tokens
        before = tuple(row for row in parent.rows if row.tokens <= began)
        if not before or before[-1].tokens != began:
            raise ValueError(f"{arm.name}: {arm.start.parent} has no validation at {began:,} tokens")
        spent = before[-1].cost
    cost = arm.shape.cost_per_token(TEXTS[piece.text].vocabulary, piece.length)
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows: list[Row] = []
    for line in lines:
        if line["val_loss"] and int(line["tokens"]) > began:
            total = spent + cost.times(int(line["tokens"]) - began)
            rows.append(
                Row(int(line["step"]), int(line["tokens"]), total.without, total.whole, float(line["val_loss"]))
            )
    logged = {int(line["tokens"]): float(line["loss"]) for line in lines if line["loss"]}
    return Result(arm.as_json(), (*before, *rows), logged, seconds, went_wrong)


def has_ended(arm: Arm, run: Path) -> bool:
    """Whether a run's log holds the validation at its last step."""
    path = run / "metrics.csv"
    if not path.exists():
        return False
    with path.open(newline="", encoding="utf-8") as file:
        return any(line["val_loss"] and int(line["step"]) == arm.steps for line in csv.DictReader(file))
