"""When to grow within a run of a fixed number of steps, by a law that is laid through the small model's own curve.

Growth at step t of S keeps the loss: the grown model goes on as if it had reached the loss L(N₁, t) from scratch, and
ends at a loss K(t). The best of both models alone reaches this loss with C(K(t)) = min over N of 6·N·tokens(N, K(t)),
and the staged run spent C(t) = 6·B·(N₁·t + N₂·(S − t)); growth at t saves 1 − C(t)/C(K(t)). That is the pessimistic
side. After a mixing time, steps of the small model count as fully as those of the large one: grown no later than
S − decay − mixing, the run ends at the loss of the large model from scratch on all S steps.

A law of other data rarely goes through a run's curve, so it is moved there in two ways: by its scale of data, and by
its floor. What both say, for all draws of a fitted law, is a range.

Source: Shen et al., arXiv 2203.06211, section 4, for what growth keeps; arXiv 2511.04981 for the mixing time, which
hardly depends on the small model's depth, and for the latest step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import DataError, RequestError
from ckptgrow.planning.fixed_batch import loss_after, tokens_to
from ckptgrow.planning.laws import Law
from ckptgrow.planning.learning_curves import Curve
from ckptgrow.planning.uncertainty import QUANTILES

Vector = npt.NDArray[np.float64]
Interval = tuple[float, float]
SHARES = np.linspace(0.02, 0.98, 97)  # of all steps, at which growth is tried
NEAR_BEST = 0.9  # of the best saving: between these steps the time hardly matters
SCALES = (-8.0, 8.0)  # bounds of the logarithm by which a law's scale of data may move
HALVINGS = 50
EXACT = 1e-3  # of the loss: a law that is farther away after all does not go through the curve


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """A whole run: parameters without embeddings before and after growth, tokens a step, steps in all, the share of
    them in which the rate decays at the end, and how many steps the grown model takes to mix, where somebody measured
    it.
    """

    small: float
    large: float
    batch: float
    steps: int
    decay_share: float
    mixing: float | None = None

    @property
    def latest(self) -> int | None:
        """The last step at which growth still mixes before the rate decays; None where no mixing time is known."""
        return None if self.mixing is None else math.floor(self.steps * (1 - self.decay_share) - self.mixing)


@dataclass(frozen=True, eq=False, kw_only=True)
class Savings:
    """What growth at each of `steps` saves, and the loss at its end, by one law; vectors of the same length."""

    law: Law
    steps: Vector
    before: Vector  # nats, at growth
    after: Vector  # nats, at the end
    saved: Vector  # share of the compute with which the better model alone reaches the same loss

    @property
    def best(self) -> int:
        """The index of the step that saves most."""
        return int(np.argmax(self.saved))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When to grow. `best_step`, `saving` and `loss`: of the growth that saves most, with ranges over laws; `window`:
    the steps that save nearly as much, `pays`: those that save anything, both None where none does.

    `latest`, `latest_saving`: the last step that still mixes, and what it saves against the large model from scratch on
    all steps. `misfit`: by how much the law missed the run's curve before it was moved there, as a share of the loss.
    """

    savings: Savings
    best_step: int
    best_step_range: Interval
    saving: float
    saving_range: Interval
    loss: float
    window: Interval | None
    pays: Interval | None
    latest: int | None
    latest_saving: float | None
    misfit: float
    num_laws: int


def timing(curve: Curve, laws: Sequence[Law], horizon: Horizon) -> Timing:
    """The answer for a run's curve; `laws` are the law and the draws of its fit.

    Raises DataError where no law goes through the curve, RequestError for a run that is longer than the whole one.
    """
    if curve.steps[-1] > horizon.steps:
        raise RequestError(
            f"⟦train_steps {horizon.steps}⟧: {curve.where} is at step {curve.steps[-1]:g} already, expected more"
        )
    found = [savings_by(law, horizon) for one in laws for law in through(curve, one, horizon)]
    if not found:
        raise DataError(
            f"{curve.where}: its losses are below all that the law {laws[0].name} lets a model of "
            f"{horizon.small:.3g} parameters reach, expected a law of such data; fit one with `ckptgrow plan fit`"
        )
    central = found[0]
    best = central.best
    positive = central.saved > 0
    near = central.saved >= NEAR_BEST * central.saved[best]
    pays = positive.any() and central.saved[best] > 0
    return Timing(
        savings=central,
        best_step=round(float(central.steps[best])),
        best_step_range=_range([float(one.steps[one.best]) for one in found]),
        saving=float(central.saved[best]),
        saving_range=_range([float(one.saved[one.best]) for one in found]),
        loss=float(central.after[best]),
        window=_ends(central.steps[near]) if pays else None,
        pays=_ends(central.steps[positive]) if pays else None,
        latest=horizon.latest,
        latest_saving=_saved_at_the_latest(horizon),
        misfit=misfit(curve, laws[0], horizon),
        num_laws=len(found),
    )


def savings_by(law: Law, horizon: Horizon) -> Savings:
    """What growth at each share of the steps saves by a law."""
    small, large, batch = horizon.small, horizon.large, horizon.batch
    steps = SHARES * horizon.steps
    before = loss_after(law, small, steps * batch, batch)
    resumed = tokens_to(law, large, before, batch)
    after = loss_after(law, large, resumed + (horizon.steps - steps) * batch, batch)
    spent = 6 * batch * (small * steps + large * (horizon.steps - steps))
    alone = np.stack([_compute_alone(law, size, after, batch) for size in (small, large)]).min(axis=0)
    return Savings(law=law, steps=steps, before=before, after=after, saved=1 - spent / alone)


def through(curve: Curve, law: Law, horizon: Horizon) -> Iterator[Law]:
    """The law moved to the second half of a curve: by its scale of data where it can be, and by its floor."""
    tokens, losses = _later(curve, horizon)

    def excess(one: Law) -> float:
        return float(np.mean(np.log(loss_after(one, horizon.small, tokens, horizon.batch)) - np.log(losses)))

    if losses.mean() > float(law.limit(horizon.small)):
        yield _moved(lambda by: replace(law, data_scale=law.data_scale * math.exp(by)), SCALES, excess)
    lowest = -0.999 * float(law.limit(horizon.large))  # so that no model has a loss below zero
    by_floor = _moved(
        lambda by: replace(law, floor=law.floor + by), (lowest, max(float(losses.max()), -0.5 * lowest)), excess
    )
    if abs(excess(by_floor)) < EXACT:
        yield by_floor


def _moved(law_by: Callable[[float], Law], bounds: Interval, excess: Callable[[Law], float]) -> Law:
    """The law whose excess, which rises with what it is moved by, is zero, by bisection."""
    low, high = bounds
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(law_by(middle)) > 0 else (middle, high)
    return law_by((low + high) / 2)


def misfit(curve: Curve, law: Law, horizon: Horizon) -> float:
    """The median of |log L − log L(law)| over the second half of a curve."""
    tokens, losses = _later(curve, horizon)
    return float(np.median(np.abs(np.log(loss_after(law, horizon.small, tokens, horizon.batch) / losses))))


def _compute_alone(law: Law, size: float, losses: Vector, batch: float) -> Vector:
    """6·N·tokens to each loss; infinite where the model never comes there."""
    can = losses > float(law.limit(size))
    reachable = np.where(can, losses, float(law.limit(size)) + 1.0)
    return np.where(can, 6 * size * tokens_to(law, size, reachable, batch), np.inf)


def _later(curve: Curve, horizon: Horizon) -> tuple[Vector, Vector]:
    half = curve.steps >= curve.steps[-1] / 2
    return curve.steps[half] * horizon.batch, curve.losses[half]


def _saved_at_the_latest(horizon: Horizon) -> float | None:
    if horizon.latest is None or horizon.latest < 1:
        return None
    return horizon.latest / horizon.steps * (1 - horizon.small / horizon.large)


def _ends(steps: Vector) -> Interval:
    return float(steps[0]), float(steps[-1])


def _range(values: Sequence[float]) -> Interval:
    """Of 90 % of many, of all of a few."""
    low, high = np.quantile(values, QUANTILES) if len(values) > 2 / QUANTILES[0] else (min(values), max(values))
    return float(low), float(high)
