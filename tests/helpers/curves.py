"""Curves with a known answer, and the files that hold them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ckptgrow.planning.learning_curves import Curve

Vector = npt.NDArray[np.float64]
SMALL, LARGE = (3.0, 500.0), (2.6, 1200.0)  # floor, scale
TOKENS, SIZES = 1000.0, (1e6, 4e6)


def power_law(floor: float, scale: float, steps: Vector) -> Vector:
    """L = floor + (scale / step)^0.5, whose slope has a closed form."""
    return floor + (scale / steps) ** 0.5


def made(floor: float, scale: float, params: float, every: float = 50.0, until: float = 20_000.0) -> Curve:
    steps = np.arange(every, until, every)
    return Curve(where="made", steps=steps, losses=power_law(floor, scale, steps), compute=6 * params * TOKENS * steps)


def noisy(curve: Curve, sigma: float, generator: np.random.Generator, correlation: float = 0.3) -> Curve:
    """Log losses with noise of a standard deviation, each evaluation's correlated with the one before."""
    noise = generator.standard_normal(len(curve.steps))
    for place in range(1, len(noise)):
        noise[place] = correlation * noise[place - 1] + (1 - correlation**2) ** 0.5 * noise[place]
    return curve.with_losses(curve.losses * np.exp(sigma * noise))


def step_at(floor: float, scale: float, slope: float) -> float:
    """Where d log L / d log S = −0.5 (scale/S)^0.5 / L is a slope."""
    return scale / (-slope * floor / (0.5 + slope)) ** 2


def write(path: Path, steps: list[float], losses: list[float], loss: str = "Value", step: str = "Step") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Wall time", step, loss])
        writer.writerows([0, one, other] for one, other in zip(steps, losses, strict=True))
    return path


def write_made(path: Path, floor: float, scale: float, until: float = 20_000.0) -> Path:
    steps = np.arange(50.0, until, 50.0)
    return write(path, steps.tolist(), power_law(floor, scale, steps).tolist())
