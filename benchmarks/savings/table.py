"""A piece's results by group and seed, and what each grown run gained."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.savings.arms import STABLE, Arm, chosen, plan
from benchmarks.savings.measures import Bound, Point, compute_at, hull, loss_at, saving
from benchmarks.savings.results import Result, Results, Row
from benchmarks.savings.tiers import Piece

DEFAULTS = (
    "split, re-warmed",
    "split",
    "zero-output, re-warmed",
    "zero-output",
)  # of the commands; the first one there
JUMP_LOGS = 4  # logged losses after growth that the jump is over: 20 steps
MEASURES = {"whole": "with embeddings", "without": "without embeddings"}


@dataclass(frozen=True)
class Outcome:
    """A grown run beside others of its seed, the default recipe's too: differences in nats, savings as shares."""

    final: float
    against_scratch: Mapping[str, float | None]
    against_small: float | None
    against_default: float | None
    saved: Mapping[str, Bound | None]
    jump: float | None
    highest: float | None


class Table:
    """A piece's results by group and seed."""

    def __init__(self, piece: Piece, results: Results) -> None:
        self.piece = piece
        first = [arm for arm in plan(piece, {}).arms if not arm.tuned_by]
        tuned = {arm.name: result for arm in first if (result := results.get(arm)) is not None}
        self.finals = {name: result.final for name, result in tuned.items()}
        planned = plan(piece, self.finals)
        self.arms = [arm for arm in planned.arms if planned.is_known[arm.name]]
        self.num_planned = len(planned.arms)
        self.results = {arm.name: result for arm in self.arms if (result := results.get(arm)) is not None}
        self.scratch = chosen(piece, self.finals, "scratch")
        self.small = chosen(piece, self.finals, "small")

    def done(self, group: str) -> Iterator[tuple[Arm, Result]]:
        """Runs that have ended."""
        return ((arm, self.results[arm.name]) for arm in self.arms if arm.group == group and arm.name in self.results)

    def envelope(self, seed: int, measure: str) -> list[Point]:
        """The hull of a seed's runs from scratch with the settings that were tuned, at all budgets."""
        settings = {arm.settings for arm in self.scratch[: self.piece.extended]}
        runs = [result for arm, result in self.done("scratch") if arm.seed == seed and arm.settings in settings]
        return hull(point for result in runs if not result.went_wrong for point in result.points(measure))

    def at_budget(self, group: str, seed: int) -> Result | None:
        """A seed's run of the tuned "scratch" or "small" model, as long as the budget."""
        best = self.scratch if group == "scratch" else self.small
        for arm, result in self.done(group):
            if best and arm.seed == seed and arm.share == 1 and arm.settings == best[0].settings:
                return result
        return None

    def until_growth(self, point: float, seed: int) -> tuple[Row, ...]:
        """A seed's validations of the small model, up to where it is grown."""
        small = self.at_budget("small", seed)
        tokens = {
            arm.start.tokens for arm, _ in self.done("grown") if arm.start and (arm.point, arm.seed) == (point, seed)
        }
        return tuple(row for row in small.rows if row.tokens <= min(tokens)) if small and tokens else ()

    def lead(self, point: float, seed: int) -> float | None:
        """Share of the budget that the large model, before its rate decays, needs more than the small one had."""
        rows, large = self.until_growth(point, seed), self.at_budget("scratch", seed)
        if not rows or large is None:
            return None
        stable = [row for row in large.rows if row.step * STABLE[1] <= large.rows[-1].step * STABLE[0]]
        needed = compute_at(hull((row.whole, row.loss) for row in stable), rows[-1].loss)
        return (needed.value - rows[-1].whole) / large.rows[-1].whole

    @property
    def default(self) -> str:
        """The recipe that the others are compared with."""
        names = {recipe.name for recipe in self.piece.recipes}
        return next((name for name in DEFAULTS if name in names), "")

    def _by_default(self, arm: Arm) -> Result | None:
        """The same growth by the default recipe, where `arm` is another."""
        for other, result in self.done("grown"):
            alike = (other.point, other.multiplier, other.seed) == (arm.point, arm.multiplier, arm.seed)
            if alike and other.recipe == self.default != arm.recipe and not result.went_wrong:
                return result
        return None

    def outcome(self, arm: Arm, result: Result) -> Outcome:
        """What a grown run gained."""
        last, small, usual = result.rows[-1], self.at_budget("small", arm.seed), self._by_default(arm)
        differences: dict[str, float | None] = {}
        saved: dict[str, Bound | None] = {}
        for measure in MEASURES:
            curve, spent = self.envelope(arm.seed, measure), getattr(last, measure)
            scratch = loss_at(curve, spent) if curve else None
            differences[measure] = None if scratch is None else result.final - scratch
            saved[measure] = saving(curve, spent, result.final) if curve else None
        jumps = _jumps(arm, result, small)
        return Outcome(
            result.final,
            differences,
            None if small is None else result.final - small.final,
            None if usual is None else result.final - usual.final,
            saved,
            statistics.fmean(jumps) if jumps else None,
            max(jumps, default=None),
        )


def _jumps(arm: Arm, result: Result, small: Result | None) -> list[float]:
    """Training losses right after growth less the small model's on the same batches, which it went on with alone."""
    if small is None or arm.start is None:
        return []
    began = arm.start.tokens
    seen = sorted(tokens for tokens in result.logged if tokens > began and tokens in small.logged)
    return [result.logged[tokens] - small.logged[tokens] for tokens in seen[:JUMP_LOGS]]
