"""What came of one draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["right", "refused", "finding", "error"]


class FindingError(Exception):
    """What the product did and should not have done."""


class RefusedError(Exception):
    """The product refused the request with a reason, which is its right."""


@dataclass(frozen=True)
class Outcome:
    """One draw and its verdict; an `error` is the harness's own."""

    kind: str
    seed: int
    verdict: Verdict
    what: str
    draw: Mapping[str, Any]
    seconds: float = 0.0

    @property
    def redo(self) -> str:
        """The command that repeats this draw alone."""
        return f"python -m tests.campaign --only {self.kind} --seed {self.seed} --draws 1"

    def row(self) -> dict[str, Any]:
        """As JSON lines have it."""
        return {**asdict(self), "redo": self.redo}
