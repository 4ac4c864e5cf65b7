"""The table of runs that a piece needs, each one or more command lines that end in a training.

A run either begins anew or goes on from a checkpoint of another one, its parent, after the growth's commands. Which
runs there are depends on the tuning: until all runs of it have ended, the rest is a guess that only serves to count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from benchmarks.savings.shapes import Shape
from benchmarks.savings.tiers import STEP_UNIT, TEXTS, Piece, Recipe

PHASES = 20  # validations in a run as long as the budget, and checkpoints in the small model's
SHARES = (0.5, 1.0, 2.0)  # budgets of the large model from scratch
STABLE = 4, 5  # of the steps: where `--schedule wsd` begins to decay


@dataclass(frozen=True)
class Start:
    """The parent's checkpoint that a run goes on from: step and tokens seen; and the schedule's step to go on at."""

    parent: str
    step: int
    tokens: int
    schedule_step: int


@dataclass(frozen=True)
class Arm:
    """A run: `steps` of training of a `shape`, after the `grow` command lines where it has a start that is grown.

    `tuned_by` are the runs that must have ended before it is known that this one is wanted.
    """

    name: str
    group: str
    shape: Shape
    seed: int
    rate: float
    batch: int
    schedule: str
    steps: int
    share: float = 1.0
    start: Start | None = None
    grow: tuple[tuple[str, ...], ...] = ()
    recipe: str = ""
    point: float = 0.0
    multiplier: float = 1.0
    rewarm: int = 0
    new_peak: float | None = None
    tuned_by: tuple[str, ...] = field(default=(), compare=False)

    @property
    def phase(self) -> int:
        """Steps between validations: a twentieth of the budget."""
        return round(self.steps / self.share) // PHASES

    @property
    def settings(self) -> tuple[float, int, str]:
        """What is tuned."""
        return self.rate, self.batch, self.schedule

    def as_json(self) -> dict[str, Any]:
        """As a result records it."""
        return {key: value for key, value in asdict(self).items() if key != "tuned_by"}


@dataclass(frozen=True)
class Plan:
    """A piece's runs; `is_known` is False while tuning is not done."""

    arms: tuple[Arm, ...]
    is_known: Mapping[str, bool]


def plan(piece: Piece, finals: Mapping[str, float]) -> Plan:
    """All runs, given the final losses of those that have ended (infinite where one diverged)."""
    scratch = [_scratch(piece, *settings) for settings in product(piece.rates, piece.batches, piece.schedules)]
    small = [_small(piece, rate) for rate in piece.small_rates]
    arms = [*scratch, *small]
    is_known = dict.fromkeys((arm.name for arm in arms), True)
    for chosen, tuning in ((_best(scratch, finals)[: piece.extended], scratch), (_best(small, finals)[:1], small)):
        names = tuple(arm.name for arm in tuning)
        is_done = all(name in finals for name in names)
        later = _after_small(piece, chosen[0]) if tuning is small else _after_scratch(piece, chosen)
        for arm in later:
            if arm.name not in is_known:
                arms.append(replace(arm, tuned_by=names))
                is_known[arm.name] = is_done
    return Plan(tuple(arms), is_known)


def chosen(piece: Piece, finals: Mapping[str, float], group: str) -> list[Arm]:
    """The tuned runs of "scratch" or "small" with the first seed, the best first; those that have ended only."""
    arms = [arm for arm in plan(piece, finals).arms if arm.group == group and not arm.tuned_by and arm.name in finals]
    return _best(arms, finals)


def small_steps(piece: Piece) -> int:
    """Steps in which the small model spends the budget."""
    vocabulary = TEXTS[piece.text].vocabulary
    costs = [shape.cost_per_token(vocabulary, piece.length).whole for shape in (piece.large, piece.small)]
    return _rounded(piece.steps * costs[0] / costs[1])


def _best(arms: Sequence[Arm], finals: Mapping[str, float]) -> list[Arm]:
    return sorted(arms, key=lambda arm: finals.get(arm.name, math.inf))


def _rounded(steps: float, unit: int = STEP_UNIT) -> int:
    return max(unit, round(steps / unit) * unit)


def _base(piece: Piece) -> str:
    return f"{piece.text}-{piece.large.key}-{piece.steps}"


def _settings(rate: float, batch: int, schedule: str) -> str:
    return f"lr{rate:g}-b{batch}-{schedule}"


def _scratch(piece: Piece, rate: float, batch: int, schedule: str) -> Arm:
    name = f"{_base(piece)}-scratch-{_settings(rate, batch, schedule)}"
    steps = _rounded(piece.steps * piece.batches[0] / batch)
    return Arm(f"{name}-s{piece.seeds[0]}", "scratch", piece.large, piece.seeds[0], rate, batch, schedule, steps)


def _small(piece: Piece, rate: float) -> Arm:
    batch, seed = piece.batches[0], piece.seeds[0]
    name = f"{_base(piece)}-small-{piece.small.key}-{_settings(rate, batch, 'wsd')}-s{seed}"
    return Arm(name, "small", piece.small, seed, rate, batch, "wsd", small_steps(piece))


def _with_seed(arm: Arm, seed: int) -> Arm:
    return replace(arm, name=f"{arm.name.rpartition('-s')[0]}-s{seed}", seed=seed)


def _after_scratch(piece: Piece, tuned: Sequence[Arm]) -> Iterator[Arm]:
    """Other seeds, and other budgets: with `wsd` they branch off the run at the budget, before anything decays."""
    for first, seed in product(tuned, piece.seeds):
        arm = _with_seed(first, seed)
        yield arm
        for share in SHARES:
            if share == 1.0:
                continue
            steps = round(share * arm.steps)
            other = replace(arm, name=f"{arm.name}-x{share:g}", steps=steps, share=share)
            if arm.schedule == "wsd":
                branch = min(steps, arm.steps) * STABLE[0] // STABLE[1]
                start = Start(arm.name, branch, branch * arm.batch * piece.length, branch)
                other = replace(other, start=start)
            yield other


def _after_small(piece: Piece, tuned: Arm) -> Iterator[Arm]:
    """Other seeds, and all that is grown from these."""
    parents = [_with_seed(tuned, seed) for seed in piece.seeds]
    yield from parents
    for point, multiplier, parent, recipe in product(piece.points, piece.multipliers, parents, piece.recipes):
        yield _grown(piece, parent, recipe, point, multiplier)


def _grown(piece: Piece, parent: Arm, recipe: Recipe, point: float, multiplier: float) -> Arm:
    """Goes on at the schedule's step at which the large model from scratch has spent as much."""
    step = round(point * PHASES) * parent.steps // PHASES
    schedule_step = piece.steps - _rounded((1 - point) * piece.steps, STEP_UNIT // PHASES)
    sizes = {"hidden": piece.large.hidden, "ffn": piece.large.ffn, "heads": piece.large.heads}
    commands = [tuple(command.format(**sizes).split()) for command in recipe.commands]
    seeded = [(*command, "--seed", str(parent.seed)) if command[0] == "width" else command for command in commands]
    key = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in recipe.name).replace("--", "-")
    return Arm(
        name=f"{_base(piece)}-{piece.small.key}-at{point:g}-lr{multiplier:g}x-{key}-s{parent.seed}",
        group="grown",
        shape=piece.large,
        seed=parent.seed,
        rate=parent.rate * multiplier,
        batch=parent.batch,
        schedule="wsd",
        steps=piece.steps,
        start=Start(parent.name, step, step * parent.batch * piece.length, schedule_step),
        grow=tuple(seeded),
        recipe=recipe.name,
        point=point,
        multiplier=multiplier,
        rewarm=round(recipe.rewarm * piece.steps),
        new_peak=recipe.new_peak,
    )
