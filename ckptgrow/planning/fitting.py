"""Fits a law's constants to learning curves: robust least squares on log L.

Source: Hoffmann et al., arXiv 2203.15556, appendix D.3, for Huber's loss on log L with δ = 1e-3; Huber, "Robust
Estimation of a Location Parameter", 1964; White, Econometrica 48, 1980, for the standard errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptgrow.choices import LawForm
from ckptgrow.errors import DataError, MissingDependencyError
from ckptgrow.planning.laws import LAWS, Law

Vector = npt.NDArray[np.float64]
HUBER = 1e-3  # of log L: residuals beyond it count linearly
NAMES: dict[LawForm, tuple[str, ...]] = {
    "kaplan": ("size_scale", "size_exponent", "data_scale", "data_exponent"),
    "hoffmann": ("size_scale", "size_exponent", "data_scale", "data_exponent", "floor"),
}
STARTS = ((0.05, 0.1, 0.3, 0.5), (0.3, 0.5, 0.8), (0.5, 1.5, 1.69))  # α; β; E, where a search begins


@dataclass(frozen=True)
class Points:
    """Evaluations of all curves: parameters, steps, losses (nats) and tokens per step, vectors of the same length."""

    sizes: Vector
    steps: Vector
    losses: Vector
    tokens_per_step: Vector


@dataclass(frozen=True)
class Fit:
    """A fitted law, the standard error of each constant, and the root mean square of the residuals of log L."""

    law: Law
    standard_errors: dict[str, float]
    residual: float
    num_points: int


def fit(points: Points, form: LawForm, name: str) -> Fit:
    """Fits a law of a form; Kaplan's takes B_crit from the published law to turn steps into S_min.

    Raises DataError where the curves have too few different sizes to determine the constants.
    """
    needed = len(NAMES[form]) - 2
    num_sizes = len(np.unique(points.sizes))
    if num_sizes < needed:
        raise DataError(f"plan fit: curves of {num_sizes} sizes, expected at least {needed} for the {form} form")
    data = _data(points, form)
    # in units of the middle, so that scales and exponents are hardly correlated
    units = float(np.exp(np.log(points.sizes).mean())), float(np.exp(np.log(data).mean()))
    x, y = np.log(points.sizes / units[0]), np.log(data / units[1])
    solution = _best(x, y, np.log(points.losses), form)
    values, jacobian = _natural(solution, units, form)
    covariance = jacobian @ _covariance(solution, x, y, np.log(points.losses), form) @ jacobian.T
    law = _law(name, form, [float(one) for one in values])
    law = replace(law, smallest_fitted=float(points.sizes.min()), largest_fitted=float(points.sizes.max()))
    residuals, _ = _residuals(solution, x, y, np.log(points.losses), form)
    errors = dict(zip(NAMES[form], map(float, np.sqrt(np.diag(covariance))), strict=True))
    return Fit(law, errors, float(np.sqrt(np.mean(residuals**2))), len(x))


def _law(name: str, form: LawForm, values: Sequence[float]) -> Law:
    size_scale, size_exponent, data_scale, data_exponent = values[:4]
    if form == "hoffmann":
        return Law(
            name=name,
            floor=values[4],
            size_scale=size_scale,
            size_exponent=size_exponent,
            data_scale=data_scale,
            data_exponent=data_exponent,
            measure="tokens",
        )
    return Law(
        name=name,
        floor=0.0,
        size_scale=size_scale,
        size_exponent=size_exponent,
        data_scale=data_scale,
        data_exponent=data_exponent,
        measure="steps",
        batch_scale=LAWS["kaplan"].batch_scale,
        batch_exponent=LAWS["kaplan"].batch_exponent,
    )


def _data(points: Points, form: LawForm) -> Vector:
    if form == "hoffmann":
        return points.steps * points.tokens_per_step
    critical = LAWS["kaplan"].critical_batch(points.losses)
    return np.asarray(points.steps / (1 + critical / points.tokens_per_step), dtype=np.float64)


def _residuals(theta: Vector, x: Vector, y: Vector, log_losses: Vector, form: LawForm) -> tuple[Vector, Vector]:
    """log L(θ) − log L, shape (points,), and its Jacobian, shape (points, constants).

    θ = (log a', α, log b', β[, log E]), with a' and b' for sizes and data in units of their means.
    """
    by_size, by_data = np.exp(theta[0] - theta[1] * x), np.exp(theta[2] - theta[3] * y)
    floor = np.exp(theta[4]) if form == "hoffmann" else 0.0
    loss = by_size + by_data + floor
    columns = [by_size, -x * by_size, by_data, -y * by_data]
    columns += [np.full_like(x, floor)] if form == "hoffmann" else []
    return np.log(loss) - log_losses, np.stack(columns, axis=1) / loss[:, None]


def _best(x: Vector, y: Vector, log_losses: Vector, form: LawForm) -> Vector:
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise MissingDependencyError("plan fit needs `pip install 'ckptgrow[plan]'`") from error
    middle = float(np.exp(np.median(log_losses)))
    alphas, betas, floors = STARTS
    found: list[Any] = []
    for alpha, beta, floor in itertools.product(alphas, betas, floors if form == "hoffmann" else (0.0,)):
        rest = max(middle - floor, 0.2 * middle)
        start = [np.log(0.7 * rest), alpha, np.log(0.3 * rest), beta, *([np.log(floor)] if floor else [])]
        found.append(
            least_squares(
                lambda theta: _residuals(theta, x, y, log_losses, form)[0],
                start,
                jac=lambda theta: _residuals(theta, x, y, log_losses, form)[1],  # pyright: ignore[reportArgumentType]
                loss="huber",
                f_scale=HUBER,
                x_scale="jac",
                bounds=_bounds(form),
                max_nfev=2000,
            )
        )
    return np.asarray(min(found, key=lambda one: one.cost).x, dtype=np.float64)


def _bounds(form: LawForm) -> tuple[list[float], list[float]]:
    low, high = [-20.0, 1e-4, -40.0, 1e-4, -8.0], [8.0, 5.0, 8.0, 5.0, 3.0]
    num = len(NAMES[form])
    return low[:num], high[:num]


def _natural(theta: Vector, units: tuple[float, float], form: LawForm) -> tuple[Vector, Vector]:
    """The constants for sizes in parameters and data in steps or tokens, and their Jacobian by θ."""
    a = np.exp(theta[0] + theta[1] * np.log(units[0]))
    b = np.exp(theta[2] + theta[3] * np.log(units[1]))
    jacobian = np.zeros((len(theta), len(theta)))
    jacobian[0, :2] = a, a * np.log(units[0])
    jacobian[2, 2:4] = b, b * np.log(units[1])
    jacobian[1, 1] = jacobian[3, 3] = 1.0
    values = [a, theta[1], b, theta[3]]
    if form == "hoffmann":
        values.append(np.exp(theta[4]))
        jacobian[4, 4] = values[4]
    return np.array(values), jacobian


def _covariance(theta: Vector, x: Vector, y: Vector, log_losses: Vector, form: LawForm) -> Vector:
    """White's covariance of a weighted estimator, which takes evaluations as independent."""
    residuals, jacobian = _residuals(theta, x, y, log_losses, form)
    inside = np.abs(residuals) <= HUBER
    score = np.clip(residuals, -HUBER, HUBER)
    bread = np.linalg.pinv(jacobian[inside].T @ jacobian[inside])
    num, dof = len(x), len(x) - len(theta)
    return bread @ (jacobian.T * score**2) @ jacobian @ bread * num / max(1, dof)


def gather(curves: Sequence[tuple[float, Vector, Vector]], tokens_per_step: float) -> Points:
    """The points of all curves, from the (parameters, steps, losses) of each."""
    sizes = np.concatenate([np.full(len(steps), size) for size, steps, _ in curves])
    steps = np.concatenate([one for _, one, _ in curves])
    losses = np.concatenate([one for _, _, one in curves])
    return Points(sizes, steps, losses, np.full(len(sizes), tokens_per_step))
