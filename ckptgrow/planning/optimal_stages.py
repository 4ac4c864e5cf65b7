"""Finds the stages with the least compute, by SLSQP with exact gradients from several starting points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ckptgrow.errors import RequestError, needs
from ckptgrow.planning.staging import Problem, StagedLosses, check_feasible, compute_gradient, stage_compute

Vector = npt.NDArray[np.float64]
STARTS = (
    -2.5,
    -1.0,
    0.0,
    1.0,
)  # log of the loss above its model's limit, over that of the target: where searches begin
WIDEST = 60.0  # bound of that logarithm on both sides


class Coordinates:
    """The free numbers x of a problem, and the sizes and losses that follow from them.

    x = (log N_K if it is free, the logarithms of free growths, log(L_k − limit(N_k)) for k < K).
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._size_is_free = problem.size is None
        self._free = [index for index, (low, high) in enumerate(problem.growths) if high > low]
        self.num = int(self._size_is_free) + len(self._free) + len(problem.growths)

    def unpack(self, x: Vector) -> tuple[Vector, Vector]:
        """The logarithms of the sizes, and the losses, of all stages; shapes (stages,)."""
        problem = self.problem
        last = x[0] if self._size_is_free else np.log(float(problem.size or 0))
        growths = np.array([low for low, _ in problem.growths], dtype=x.dtype)
        begin = int(self._size_is_free)
        growths[self._free] = x[begin : begin + len(self._free)]
        log_sizes = last - np.concatenate([np.cumsum(growths[::-1])[::-1], np.zeros(1)])
        above = np.exp(x[begin + len(self._free) :])
        losses = np.append(problem.law.limit(np.exp(log_sizes[:-1])) + above, problem.loss)
        return log_sizes, losses

    def pull_back(self, x: Vector, by_log_size: Vector, by_loss: Vector) -> Vector:
        """The gradient by x, from the gradients by log sizes and by losses."""
        log_sizes, losses = self.unpack(x)
        begin, num_growths = int(self._size_is_free), len(self.problem.growths)
        sizes = np.exp(log_sizes)
        total = by_log_size.copy()
        total[:-1] += by_loss[:-1] * self.problem.law.limit_by_log_size(sizes[:-1])
        by_growth = -np.cumsum(total)[:num_growths]  # growth j makes models 1 … j smaller
        by_above = by_loss[:-1] * (losses[:-1] - self.problem.law.limit(sizes[:-1]))
        first = np.array([total.sum()])[:begin]
        return np.concatenate([first, by_growth[self._free], by_above])

    def bounds(self) -> list[tuple[float, float]]:
        """The lower and upper bound of each number in x."""
        smallest = np.log(self.problem.law.smallest_size(self.problem.loss)) + 1e-3
        sizes = [(smallest, smallest + WIDEST)] if self._size_is_free else []
        return [*sizes, *(self.problem.growths[one] for one in self._free), *[(-WIDEST, WIDEST)] * (self.num_losses)]

    @property
    def num_losses(self) -> int:
        """The number of losses that are free."""
        return len(self.problem.growths)

    def starts(self) -> list[Vector]:
        """Several starting points: small models that are trained for a short or a long time."""
        law, problem = self.problem.law, self.problem
        size = problem.size or 4.0 * law.smallest_size(problem.loss)
        first = [np.log(size)] if self._size_is_free else []
        begins: list[Vector] = []
        for share in (0.2, 0.8):
            middle = [low + share * (high - low) for low, high in (problem.growths[one] for one in self._free)]
            above = np.log(max(problem.loss - float(law.limit(size)), 1e-6))
            begins += [np.array([*first, *middle, *[above + shift] * self.num_losses]) for shift in STARTS]
        return begins if self._free else begins[: len(STARTS)]


def log_compute(coordinates: Coordinates, x: Vector) -> tuple[float, Vector]:
    """The logarithm of the total compute, and its gradient by x."""
    log_sizes, losses = coordinates.unpack(x)
    total = stage_compute(coordinates.problem, log_sizes, losses).sum()
    gradient = coordinates.pull_back(x, *compute_gradient(coordinates.problem, log_sizes, losses))
    return np.log(total), gradient / total


def falls(coordinates: Coordinates, x: Vector) -> Vector:
    """L_k − L_(k+1) for every stage but the last; each must be at least 0."""
    _, losses = coordinates.unpack(x)
    return losses[:-1] - losses[1:]


def falls_gradient(coordinates: Coordinates, x: Vector) -> npt.NDArray[np.float64]:
    """The Jacobian of `falls`, shape (stages − 1, numbers in x)."""
    num = coordinates.problem.num_stages
    rows = [coordinates.pull_back(x, np.zeros(num), np.eye(num)[row] - np.eye(num)[row + 1]) for row in range(num - 1)]
    return np.array(rows).reshape(num - 1, coordinates.num)


def best_schedule(problem: Problem) -> StagedLosses:
    """The stages with the least compute, the best result of several searches.

    Raises RequestError where the target cannot be reached.
    """
    check_feasible(problem)
    coordinates = Coordinates(problem)
    if coordinates.num == 0:
        return _schedule(problem, coordinates.unpack(np.zeros(0)))
    found = [x for start in coordinates.starts() if (x := _search(coordinates, start)) is not None]
    if not found:
        raise RequestError(
            f"{problem.num_stages} stages: no schedule to loss {problem.loss:.4g} was found, expected a target that "
            "smaller models come near; ask for fewer stages or smaller growths"
        )
    return _schedule(problem, coordinates.unpack(min(found, key=lambda x: log_compute(coordinates, x)[0])))


def _search(coordinates: Coordinates, start: Vector) -> Vector | None:
    with needs("plan law", "plan"):
        from scipy.optimize import minimize
    with np.errstate(all="ignore"):  # a search may look where a power of a negative number is asked for
        result = minimize(
            lambda x: log_compute(coordinates, x),
            start,
            jac=True,
            method="SLSQP",
            bounds=coordinates.bounds(),
            constraints={
                "type": "ineq",
                "fun": lambda x: falls(coordinates, x),
                "jac": lambda x: falls_gradient(coordinates, x),
            },
            options={"ftol": 1e-13, "maxiter": 500},
        )
        x = np.asarray(result.x, dtype=np.float64)
        value = log_compute(coordinates, x)[0]
        lowest = falls(coordinates, x).min(initial=0.0)
    return x if np.isfinite(value) and lowest >= -1e-9 * coordinates.problem.loss else None


def _schedule(problem: Problem, found: tuple[Vector, Vector]) -> StagedLosses:
    log_sizes, losses = found
    compute = stage_compute(problem, log_sizes, losses)
    return StagedLosses(
        _numbers(np.exp(log_sizes)), _numbers(losses), _numbers(np.maximum(compute, 0.0))
    )  # a stage without steps: rounding


def _numbers(values: Vector) -> tuple[float, ...]:
    return tuple(float(one) for one in values)
