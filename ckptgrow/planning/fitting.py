"""Fits a law's constants to learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.choices import LawForm
from ckptgrow.errors import DataError, listing
from ckptgrow.planning.law_regression import CONSTANTS, Regression
from ckptgrow.planning.laws import LAWS, Law

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """Evaluations of all curves: parameters, steps, losses (nats) and tokens per step, vectors of the same length.

    `curves`: the number of the curve that each belongs to; a curve's evaluations stand together, in their order.
    """

    sizes: Vector
    steps: Vector
    losses: Vector
    tokens_per_step: Vector
    curves: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """A fitted law, and the root mean square of the residuals of log L.

    `independent_errors`: the standard error of each constant if evaluations were independent; `theta`: the regression's
    solution; `has_floor`: whether the curves show one, where the form has one.
    """

    law: Law
    independent_errors: dict[str, float]
    residual: float
    points: Points
    regression: Regression
    theta: Vector
    has_floor: bool


def fit(points: Points, form: LawForm, name: str) -> Fit:
    """Fits a law of a form; Kaplan's takes B_crit from the published law to turn steps into S_min.

    Raises DataError where the curves have too few different sizes to determine the constants, or do not determine them.
    """
    num_sizes = len(np.unique(points.sizes))
    if num_sizes < fewest_sizes(form):
        raise DataError(
            f"plan fit: curves of {num_sizes} sizes, expected at least {fewest_sizes(form)} for the {form} form"
        )
    regression = _regression(points, form)
    theta = regression.best()
    bounded = regression.on_bounds(theta)
    undetermined = [one for one in bounded if one != "floor"]
    if undetermined:
        raise DataError(
            f"plan fit: {listing(undetermined)} came to the bounds of the search, expected curves that determine every "
            "constant; add sizes farther apart, longer curves, or leave out warm-up with ⟦from_step⟧"
        )
    values, jacobian = regression.natural(theta)
    covariance = jacobian @ regression.covariance(theta) @ jacobian.T
    residuals, _ = regression.residuals(theta)
    return Fit(
        law=law_with(values, points, form, name),
        independent_errors=dict(zip(CONSTANTS[form], map(float, np.sqrt(np.diag(covariance))), strict=True)),
        residual=float(np.sqrt(np.mean(residuals**2))),
        points=points,
        regression=regression,
        theta=theta,
        has_floor=form == "hoffmann" and "floor" not in bounded,
    )


def fewest_sizes(form: LawForm) -> int:
    """How many different sizes determine the constants of a form."""
    return len(CONSTANTS[form]) - 2


def law_with(values: Vector, points: Points, form: LawForm, name: str) -> Law:
    """The law with constants in the order of `CONSTANTS`."""
    constants = {one: float(value) for one, value in zip(CONSTANTS[form], values, strict=True)}
    kaplan = LAWS["kaplan"]
    return Law(
        name=name,
        floor=constants.pop("floor", 0.0),
        **constants,
        measure="tokens" if form == "hoffmann" else "steps",
        batch_scale=None if form == "hoffmann" else kaplan.batch_scale,
        batch_exponent=None if form == "hoffmann" else kaplan.batch_exponent,
        smallest_fitted=float(points.sizes.min()),
        largest_fitted=float(points.sizes.max()),
    )


def _regression(points: Points, form: LawForm) -> Regression:
    data = points.steps * points.tokens_per_step
    if form == "kaplan":
        data = points.steps / (1 + LAWS["kaplan"].critical_batch(points.losses) / points.tokens_per_step)
    units = float(np.exp(np.log(points.sizes).mean())), float(np.exp(np.log(data).mean()))
    return Regression(
        x=np.log(points.sizes / units[0]),
        y=np.log(data / units[1]),
        log_losses=np.log(points.losses),
        form=form,
        units=units,
    )


def gather(curves: Sequence[tuple[float, Vector, Vector]], tokens_per_step: float) -> Points:
    """The points of all curves, from the (parameters, steps, losses) of each."""
    sizes = np.concatenate([np.full(len(steps), size) for size, steps, _ in curves])
    return Points(
        sizes=sizes,
        steps=np.concatenate([one for _, one, _ in curves]),
        losses=np.concatenate([one for _, _, one in curves]),
        tokens_per_step=np.full(len(sizes), tokens_per_step),
        curves=np.repeat(np.arange(len(curves)), [len(steps) for _, steps, _ in curves]),
    )
