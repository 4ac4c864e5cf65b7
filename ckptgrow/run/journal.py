"""The journal of a run: one JSON line for the plan, for what it will take, and for every job that has begun or is done.

A line counts once it is whole and flushed. What a killed process left of a line is cut off when the run goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ckptgrow.errors import CheckpointError, RequestError

NAME = "journal.jsonl"
PLAN, FORESEEN, BEGUN, DONE, FAILED = "plan", "foreseen", "begun", "done", "failed"


@dataclass
class Journal:
    """What a directory's run has done; `entries` in the order of their writing, times in seconds since 1970."""

    path: Path
    entries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @classmethod
    def read(cls, directory: Path) -> Journal:
        """The journal in a run's directory, empty where there is none yet."""
        path = directory / NAME
        text = path.read_bytes() if path.exists() else b""
        lines = text[: text.rfind(b"\n") + 1].splitlines()
        try:
            return cls(path, [json.loads(line) for line in lines])
        except ValueError as error:
            raise CheckpointError(f"{path}: has a line that is not JSON ({error}), expected a run's journal") from error

    @property
    def plan(self) -> Mapping[str, Any] | None:
        """The plan that the run began with, as a tree."""
        return next((one["plan"] for one in self.entries if one["event"] == PLAN), None)

    @property
    def foreseen(self) -> list[dict[str, Any]] | None:
        """What every stage will take, as trees; None in a run of a version that did not keep it."""
        return next((one["stages"] for one in reversed(self.entries) if one["event"] == FORESEEN), None)

    def foresees(self, stages: list[dict[str, Any]]) -> None:
        """Keeps what every stage will take, where the journal does not say the same already."""
        if self.foreseen != stages:
            self._write({"event": FORESEEN, "stages": stages})

    def result(self, job: str) -> Mapping[str, Any] | None:
        """What a job that is done found; None where it is not done."""
        found = [one for one in self.entries if one["event"] == DONE and one["job"] == job]
        return found[-1]["result"] if found else None

    def seconds(self, job: str) -> float:
        """What its process took for a job that is done, by the last start."""
        return sum(one["seconds"] for one in self.entries if one["event"] == DONE and one["job"] == job)

    def check_plan(self, plan: Mapping[str, Any]) -> None:
        """Raises RequestError where the run began with another plan, with the first field in which they differ."""
        before = self.plan
        if before is not None and _said(before) != _said(json.loads(json.dumps(plan))):
            raise RequestError(
                f"{_difference(before, plan, '')}, with which {self.path.parent} began; put that back to go on there, "
                "or choose another ⟦out⟧"
            )

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Writes the plan; raises RequestError where the run began with another."""
        self.check_plan(plan)
        if self.plan is None:
            self._write({"event": PLAN, "plan": plan})

    def started(self, job: str) -> float:
        """Notes that a job begins; returns when."""
        self._write({"event": BEGUN, "job": job})
        return time.time()

    def finished(self, job: str, result: Mapping[str, Any], began: float) -> None:
        """Notes what a job found."""
        self._write({"event": DONE, "job": job, "seconds": round(time.time() - began, 3), "result": result})

    def failed(self, job: str, problems: list[str]) -> None:
        """Notes that a job stops the run."""
        self._write({"event": FAILED, "job": job, "problems": problems})

    def _write(self, entry: Mapping[str, Any]) -> None:
        stamped = {**entry, "time": round(time.time(), 3)}
        line = (json.dumps(stamped, default=str) + "\n").encode()
        with self.path.open("ab") as file:
            file.truncate(self._whole())
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(json.loads(line))

    def _whole(self) -> int:
        """Bytes up to the end of the last whole line."""
        return self.path.read_bytes().rfind(b"\n") + 1 if self.path.exists() else 0


def _said(tree: Any) -> Any:
    """A plan without the fields that say nothing: another version may have fewer of these, or more."""
    if isinstance(tree, dict):
        fields = cast(dict[str, Any], tree)
        return {name: _said(value) for name, value in fields.items() if value not in (None, {}, [])}
    return [_said(one) for one in cast(list[Any], tree)] if isinstance(tree, list) else tree


def _difference(before: Any, now: Any, where: str) -> str:
    """The first place at which two trees differ."""
    before, now = _said(before), _said(json.loads(json.dumps(now)))
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *now]:
            if before.get(name) != now.get(name):
                return _difference(before.get(name), now.get(name), f"{where}.{name}".lstrip("."))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        number = next(number for number in range(len(now)) if before[number] != now[number])
        return _difference(before[number], now[number], f"{where}[{number}]")
    return f"{where} is {_short(now)}, expected {_short(before)}"


def _short(value: Any) -> str:
    if value is None:
        return "not said"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
