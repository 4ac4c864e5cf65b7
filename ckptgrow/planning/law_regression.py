"""The regression behind a fitted law: robust least squares on log L, in units in which its constants hardly depend.

θ = (log a', α, log b', β[, log E]), with a' and b' for sizes and data in units of their means.

Source: Hoffmann et al., arXiv 2203.15556, appendix D.3, for Huber's loss on log L with δ = 1e-3; Huber, "Robust
Estimation of a Location Parameter", 1964.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptgrow.choices import LawForm
from ckptgrow.errors import needs

Vector = npt.NDArray[np.float64]
HUBER = 1e-3  # of log L: residuals beyond it count linearly
CONSTANTS: Mapping[LawForm, tuple[str, ...]] = {
    "kaplan": ("size_scale", "size_exponent", "data_scale", "data_exponent"),
    "hoffmann": ("size_scale", "size_exponent", "data_scale", "data_exponent", "floor"),
}
STARTS = ((0.05, 0.1, 0.3, 0.5), (0.3, 0.5, 0.8), (0.5, 1.5, 1.69))  # α; β; E, where a search begins
LOWEST, HIGHEST = (-20.0, 1e-4, -40.0, 1e-4, -8.0), (8.0, 5.0, 8.0, 5.0, 3.0)  # of θ
LONG, SHORT = 2000, 200  # evaluations of a search
NEAR = 1e-3  # of the distance between both bounds: nearer solutions lie on one


@dataclass(frozen=True, eq=False, kw_only=True)
class Regression:
    """What a law is fitted to: vectors of shape (points,), and the form of the law.

    `x`: log N and `y`: log u, in `units` (N, u) of their geometric means.
    """

    x: Vector
    y: Vector
    log_losses: Vector
    form: LawForm
    units: tuple[float, float]

    def with_losses(self, log_losses: Vector) -> Regression:
        """The same points with other losses."""
        return replace(self, log_losses=log_losses)

    def at(self, places: npt.NDArray[np.int64]) -> Regression:
        """The points at these places, which may come more than once."""
        return replace(self, x=self.x[places], y=self.y[places], log_losses=self.log_losses[places])

    def residuals(self, theta: Vector) -> tuple[Vector, Vector]:
        """log L(θ) − log L, shape (points,), and its Jacobian, shape (points, constants)."""
        by_size, by_data = np.exp(theta[0] - theta[1] * self.x), np.exp(theta[2] - theta[3] * self.y)
        has_floor = self.form == "hoffmann"
        floor = np.exp(theta[4]) if has_floor else 0.0
        loss = by_size + by_data + floor
        columns = [by_size, -self.x * by_size, by_data, -self.y * by_data]
        columns += [np.full_like(self.x, floor)] if has_floor else []
        return np.log(loss) - self.log_losses, np.stack(columns, axis=1) / loss[:, None]

    def best(self) -> Vector:
        """The θ with the least robust loss, of searches from many starts."""
        middle = float(np.exp(np.median(self.log_losses)))
        alphas, betas, floors = STARTS
        found: list[Any] = []
        for alpha, beta, floor in itertools.product(alphas, betas, floors if self.form == "hoffmann" else (0.0,)):
            rest = max(middle - floor, 0.2 * middle)
            start = [np.log(0.7 * rest), alpha, np.log(0.3 * rest), beta, *([np.log(floor)] if floor else [])]
            found.append(self._search(np.array(start)))
        return np.asarray(min(found, key=lambda one: one.cost).x, dtype=np.float64)

    def best_near(self, start: Vector) -> Vector:
        """The θ that a short search from one start finds."""
        return np.asarray(self._search(start, SHORT).x, dtype=np.float64)

    def _search(self, start: Vector, most: int = LONG) -> Any:
        with needs("plan fit", "plan"):
            from scipy.optimize import least_squares
        num = len(CONSTANTS[self.form])
        return least_squares(
            lambda theta: self.residuals(theta)[0],
            start,
            jac=lambda theta: self.residuals(theta)[1],  # pyright: ignore[reportArgumentType]
            loss="huber",
            f_scale=HUBER,
            x_scale="jac",
            bounds=(LOWEST[:num], HIGHEST[:num]),
            max_nfev=most,
        )

    def on_bounds(self, theta: Vector) -> tuple[str, ...]:
        """The constants whose θ lies on a bound of the search, so that the points do not determine them."""
        names = CONSTANTS[self.form]
        low, high = np.array(LOWEST[: len(names)]), np.array(HIGHEST[: len(names)])
        near = np.minimum(theta - low, high - theta) < NEAR * (high - low)
        return tuple(name for name, is_near in zip(names, near, strict=True) if is_near)

    def natural(self, theta: Vector) -> tuple[Vector, Vector]:
        """The constants for sizes in parameters and data in steps or tokens, and their Jacobian by θ."""
        a = np.exp(theta[0] + theta[1] * np.log(self.units[0]))
        b = np.exp(theta[2] + theta[3] * np.log(self.units[1]))
        jacobian = np.zeros((len(theta), len(theta)))
        jacobian[0, :2] = a, a * np.log(self.units[0])
        jacobian[2, 2:4] = b, b * np.log(self.units[1])
        jacobian[1, 1] = jacobian[3, 3] = 1.0
        values = [a, theta[1], b, theta[3]]
        if self.form == "hoffmann":
            values.append(np.exp(theta[4]))
            jacobian[4, 4] = values[4]
        return np.array(values), jacobian

    def covariance(self, theta: Vector) -> Vector:
        """White's covariance of θ, which takes evaluations as independent, shape (constants, constants).

        Source: White, Econometrica 48, 1980.
        """
        residuals, jacobian = self.residuals(theta)
        inside = np.abs(residuals) <= HUBER
        score = np.clip(residuals, -HUBER, HUBER)
        bread = np.linalg.pinv(jacobian[inside].T @ jacobian[inside])
        num, dof = len(self.x), len(self.x) - len(theta)
        return bread @ (jacobian.T * score**2) @ jacobian @ bread * num / max(1, dof)
