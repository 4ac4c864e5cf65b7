"""Random terms that separate the copies of a space and cancel in the function.

A weight that reads a space grown by copies may get any N with Σ_c N[o, i, c] = 0 over the copies c of each old input i
(they all carry the same activation). Each new row draws its own N, so the copies receive different gradients and part
during training. Without N and without dropout they stay equal for ever.

The draws are uniform with unit variance. A counter-based generator (Philox) makes them from seed, parameter name and
stored row, so that any range of rows can be drawn on its own, in any order, with the same result.

Source of the generator: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from ckptgrow.spaces.gather import GrownAxis, TensorGrowth
from ckptgrow.spaces.growth import Growth, IntVector

Array = npt.NDArray[np.float64]
Drawn = TypeVar("Drawn", np.float64, np.float32)
BYTES_PER_COUNT = 32  # of Philox 4×64: four numbers of 64 bits, or eight of 32


@dataclass(frozen=True, eq=False)
class Noise:
    """The null-space term of one parameter.

    `amplitude`: its root mean square over the entries that may be non-zero.
    """

    axes: tuple[GrownAxis, ...]
    key: int
    amplitude: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The new tensor's shape."""
        return tuple(axis.growth.num_new for axis in self.axes)

    @cached_property
    def _in_axis(self) -> int:
        found = copied_input(self.axes)
        assert found is not None
        return found

    def rows(self, start: int, stop: int) -> Array:
        """N for the new rows [start, stop) of axis 0, float64."""
        growth = self.axes[self._in_axis].growth
        if self._in_axis == 0:
            return np.concatenate(list(self._centred_rows(growth, start, stop)))
        draws = self._draw(start, stop)
        return self.amplitude * _centred(draws, self._in_axis, growth)

    def _centred_rows(self, growth: Growth, start: int, stop: int) -> Iterator[Array]:
        order = np.argsort(growth.source, kind="stable")
        firsts = np.searchsorted(growth.source[order], np.arange(growth.num_old))
        for run in growth.runs_between(start, stop):
            num_copies = int(growth.num_copies[run.start])
            draws = self._draw(run.start, run.stop)
            if num_copies == 1:
                yield np.zeros_like(draws)
                continue
            sources = np.arange(run.source, run.source + run.stop - run.start)
            total = np.zeros_like(draws)
            for copy in range(num_copies):
                total += self._draw_scattered(order[firsts[sources] + copy])
            yield self.amplitude * _unit_variance(num_copies) * (draws - total / num_copies)

    def _draw_scattered(self, rows: IntVector) -> Array:
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        return np.concatenate([self._draw(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks)])

    def _draw(self, start: int, stop: int) -> Array:
        return uniform_draws(self.key, self.shape, start, stop)


def noise_for(growth: TensorGrowth, *, seed: int, name: str, amplitude: float) -> Noise | None:
    """The noise of parameter `name`; None where it reads no copies."""
    if amplitude == 0 or copied_input(growth.axes) is None:
        return None
    return Noise(growth.axes, key_of(seed, name), amplitude)


def key_of(seed: int, name: str) -> int:
    """The generator's key for one parameter."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")


def uniform_draws(key: int, shape: tuple[int, ...], start: int, stop: int) -> Array:
    """Uniform draws with mean 0 and variance 1 for the stored rows [start, stop) of a tensor."""
    return _draws(key, shape, start, stop, np.float64)


def quick_draws(key: int, shape: tuple[int, ...], start: int, stop: int) -> npt.NDArray[np.float32]:
    """The same with the 24 bits of float32, at half the cost: for numbers of which nothing has to cancel."""
    return _draws(key, shape, start, stop, np.float32)


def _draws(key: int, shape: tuple[int, ...], start: int, stop: int, dtype: type[Drawn]) -> npt.NDArray[Drawn]:
    row_length = math.prod(shape[1:])
    draws_per_count = BYTES_PER_COUNT // np.dtype(dtype).itemsize
    counts_per_row = -(-row_length // draws_per_count)
    bits = np.random.Philox(key=key, counter=start * counts_per_row)
    drawn = np.random.Generator(bits).random((stop - start, counts_per_row * draws_per_count), dtype=dtype)
    numbers = cast(npt.NDArray[Drawn], drawn)
    numbers -= dtype(0.5)
    numbers *= dtype(math.sqrt(12.0))
    return numbers[:, :row_length].reshape(stop - start, *shape[1:])


def copied_input(axes: Sequence[GrownAxis]) -> int | None:
    """The first axis along which copies are read; None where there is none."""
    found = (index for index, axis in enumerate(axes) if axis.role == "in" and (axis.growth.num_copies > 1).any())
    return next(found, None)


def _centred(draws: Array, axis: int, growth: Growth) -> Array:
    moved = np.moveaxis(draws, axis, -1)
    sums = np.zeros((*moved.shape[:-1], growth.num_old))
    for run in growth.runs:
        sums[..., run.source : run.source + run.stop - run.start] += moved[..., run.start : run.stop]
    centred = (moved - (sums[..., growth.source] / growth.num_copies)) * _unit_variances(growth)
    return np.moveaxis(centred, -1, axis)


def _unit_variance(num_copies: int) -> float:
    """The factor that restores variance 1 after the mean of c draws is subtracted, which leaves 1 − 1/c."""
    return math.sqrt(num_copies / (num_copies - 1)) if num_copies > 1 else 0.0


def _unit_variances(growth: Growth) -> Array:
    by_count = np.array([_unit_variance(count) for count in range(int(growth.num_copies.max()) + 1)])
    return by_count[growth.num_copies]
