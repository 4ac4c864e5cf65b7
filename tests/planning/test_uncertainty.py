"""The intervals of the saving: coverage of known answers, and the warning where it cannot be told from zero."""

from __future__ import annotations

import numpy as np
import pytest

from ckptgrow.planning.growth_point import growth_point
from ckptgrow.planning.learning_curves import Curve
from ckptgrow.planning.uncertainty import local_quadratic
from tests.helpers.curves import LARGE, SIZES, SMALL, made, noisy, power_law


def saved_by(before: float, optimal: float) -> float:
    """What growing at a step saves, by the curves' closed forms."""
    loss = float(power_law(*SMALL, np.array(before)))
    target = LARGE[1] / (loss - LARGE[0]) ** 2
    return (SIZES[1] * target - SIZES[0] * before) / (SIZES[1] * optimal)


def pair(sigma: float, generator: np.random.Generator, every: float = 100.0) -> list[Curve]:
    return [noisy(made(*one, size, every), sigma, generator) for one, size in zip((SMALL, LARGE), SIZES, strict=True)]


@pytest.mark.parametrize("sigma", [1e-4, 5e-4])
def test_intervals_hold_what_the_plan_saves_about_nine_times_in_ten(sigma: float) -> None:
    generator = np.random.default_rng(3)
    hits, num = 0, 24
    for _ in range(num):
        found = growth_point(*pair(sigma, generator), "width")
        low, high = found.spread.saving
        hits += low <= saved_by(found.step_before, found.step_optimality) <= high
    assert hits >= 18  # of 24 at 90 %, 17 or fewer have a chance of 1 in 1,000


def test_another_runs_saving_mostly_falls_into_the_interval() -> None:
    """Two independent estimates differ by √2 of one's spread: 90 % intervals hold the other 75 % of the time."""
    generator = np.random.default_rng(4)
    points = [growth_point(*pair(5e-4, generator), "width") for _ in range(14)]
    inside = [
        one.spread.saving[0] <= other.saving <= one.spread.saving[1]
        for one in points
        for other in points
        if one is not other
    ]
    assert 0.55 < float(np.mean(inside)) < 0.97


def test_exact_curves_have_the_closed_form_and_a_narrow_interval() -> None:
    found = growth_point(*pair(0.0, np.random.default_rng(0)), "width")
    low, high = found.spread.saving
    exact = saved_by(found.step_before, found.step_optimality)
    assert found.saving == pytest.approx(exact, abs=0.01)
    assert low - 0.01 <= exact <= high + 0.01 and high - low < 0.03 and found.is_distinguishable


def test_a_saving_below_zero_and_one_lost_in_noise_are_not_distinguishable() -> None:
    generator = np.random.default_rng(5)
    same = [made(*SMALL, SIZES[0]), made(*LARGE, SIZES[0] * 1.01)]  # the large model's steps cost no more
    assert growth_point(same[0], same[1], "width").spread.saving[0] < 0
    assert not growth_point(same[0], same[1], "width").is_distinguishable
    noisy_ones = [growth_point(*pair(2e-3, generator), "width") for _ in range(3)]
    assert not any(one.is_distinguishable for one in noisy_ones)
    assert not any(one.is_told_from_zero for one in noisy_ones)


def test_a_local_quadratic_is_exact_for_parabolas_and_its_variance_is_that_of_repeats() -> None:
    x = np.log(np.arange(50.0, 5_000.0, 50.0))
    value, slope, variance = local_quadratic(x, 3 - 0.2 * x + 0.01 * x**2)
    assert value == pytest.approx(3 - 0.2 * x + 0.01 * x**2) and slope == pytest.approx(-0.2 + 0.02 * x)
    generator = np.random.default_rng(6)
    slopes = [local_quadratic(x, generator.standard_normal(len(x)))[1] for _ in range(60)]
    ratio = np.array(slopes).var(axis=0) / variance
    assert float(np.median(ratio)) == pytest.approx(1.0, abs=0.2)
