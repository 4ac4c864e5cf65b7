"""The best schedule against brute force, its gradients against complex steps and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ckptgrow.errors import RequestError
from ckptgrow.planning.law_plan import Target, law_plan
from ckptgrow.planning.laws import LAWS, Law, unit_cost
from ckptgrow.planning.operators import growths
from ckptgrow.planning.optimal_stages import Coordinates, best_schedule, falls, falls_gradient, log_compute
from ckptgrow.planning.staging import Problem, growth_bounds, stage_compute

LARGE = 1e9
ANY = (0.0, math.log(8))


def problem(law: Law, num: int, *, size: float | None = LARGE, batch: float | None = None) -> Problem:
    loss = float(law.efficient_loss(LARGE))
    if law.measure == "tokens":
        batch = batch or 5e5
    return Problem(law=law, loss=loss, size=size, growths=(ANY,) * (num - 1), unit=unit_cost(law, batch, loss))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("size", [None, LARGE])
@pytest.mark.parametrize("batch", [None, 5e5])
def test_gradients_are_those_of_complex_steps_and_finite_differences(
    law: Law, size: float | None, batch: float | None
) -> None:
    coordinates = Coordinates(problem(law, 3, size=size, batch=batch))
    x = np.array([*([math.log(2 * LARGE)] if size is None else []), 0.7, 0.9, -0.5, -1.0])
    _, gradient = log_compute(coordinates, x)
    jacobian = falls_gradient(coordinates, x)
    for place in range(len(x)):
        stepped = x.astype(complex)
        stepped[place] += 1e-30j
        log_sizes, losses = coordinates.unpack(stepped)
        total = stage_compute(coordinates.problem, log_sizes, losses).sum()
        assert gradient[place] == pytest.approx(np.log(total).imag / 1e-30, rel=1e-11, abs=1e-14)
        assert jacobian[:, place] == pytest.approx(falls(coordinates, stepped).imag / 1e-30, rel=1e-11, abs=1e-14)
        step = np.eye(len(x))[place] * 1e-6
        both = log_compute(coordinates, x + step)[0] - log_compute(coordinates, x - step)[0]
        assert gradient[place] == pytest.approx(both / 2e-6, rel=1e-5, abs=1e-8)


def brute_force(law: Law, large: float, loss: float, unit: float | None, ratios: np.ndarray) -> float:
    """The least compute of two stages, over a grid of ratios and losses at growth; u written out anew."""

    def limit(size: np.ndarray) -> np.ndarray:
        return law.floor + law.size_scale / size**law.size_exponent

    def data(size: np.ndarray, at: np.ndarray) -> np.ndarray:
        return (law.data_scale / (at - limit(size))) ** (1 / law.data_exponent)

    def price(at: np.ndarray) -> np.ndarray:
        return 2 * 2.1e8 / at ** (1 / 0.21) if unit is None else np.full_like(at, unit)

    small = (large / ratios)[:, None]
    at = np.maximum(limit(small), loss) + np.geomspace(1e-4, 5.0, 4001)[None, :]
    end = np.full((1, 1), loss)
    first = small * price(at) * data(small, at)
    second = large * price(end) * (data(np.full((1, 1), large), end) - data(np.full((1, 1), large), at))
    return float(6 * (first + second).min())


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("batch", [None, 5e5])
def test_two_stages_are_no_worse_than_any_on_a_grid(law: Law, batch: float | None) -> None:
    asked = problem(law, 2, batch=batch)
    found = best_schedule(asked).compute
    grid = brute_force(law, LARGE, asked.loss, asked.unit, np.geomspace(1.0, 8.0, 301))
    assert grid * (1 - 2e-4) < found <= grid * (1 + 1e-12)  # the grid's spacing


def test_three_stages_of_fixed_growths_are_no_worse_than_any_on_a_grid() -> None:
    law, loss = LAWS["kaplan"], float(LAWS["kaplan"].efficient_loss(LARGE))
    asked = Problem(law=law, loss=loss, size=LARGE, growths=growth_bounds([4, 2]), unit=None)
    sizes = np.log([LARGE / 8, LARGE / 2, LARGE])
    limits = law.limit(np.exp(sizes))
    first, second = (np.maximum(one, loss) + np.geomspace(1e-3, 1.5, 150) for one in limits[:2])
    grid = min(
        stage_compute(asked, sizes, np.array([one, other, loss])).sum()
        for one in first
        for other in second
        if one > other
    )
    found = best_schedule(asked)
    assert grid * (1 - 2e-3) < found.compute <= grid
    assert found.sizes == pytest.approx(np.exp(sizes)) and found.losses[-1] == loss
    assert all(np.diff(found.losses) < 0)


def test_a_free_size_is_no_worse_than_any_on_a_grid() -> None:
    asked = problem(LAWS["staged-training"], 2, size=None)
    grid = min(
        brute_force(asked.law, large, asked.loss, None, np.geomspace(1.0, 8.0, 61))
        for large in np.geomspace(4e8, 4e9, 81)
    )
    assert grid * (1 - 5e-3) < best_schedule(asked).compute <= grid


def test_bounds_of_growth_hold() -> None:
    law, loss = LAWS["kaplan"], 2.9
    found = best_schedule(Problem(law=law, loss=loss, size=None, growths=((0.0, math.log(2)),) * 2, unit=None))
    assert all(np.array(found.sizes[1:]) / found.sizes[:-1] <= 2 + 1e-9)


def test_more_stages_never_cost_more_and_one_size_saves_nothing_at_a_fixed_batch() -> None:
    computes = [best_schedule(problem(LAWS["kaplan"], num, batch=5e5)).compute for num in (1, 2, 3)]
    assert computes[0] > computes[1] > computes[2]
    plan = law_plan(
        LAWS["kaplan"],
        Target(params=LARGE, loss=None, num_stages=3, growths=growths(("width",), 2)),
        5e5,
        lambda _: 1e-3,
    )
    assert plan.saving_of_batches == pytest.approx(0, abs=1e-9) and plan.saving > 0.1


def test_the_plans_operators_are_the_best_of_all_sequences() -> None:
    law, choices = LAWS["kaplan"], growths(("width", "depth", "both"), 2)
    plan = law_plan(law, Target(params=LARGE, loss=None, num_stages=3, growths=choices), None, lambda _: 1e-3)
    loss = plan.stages[-1].loss
    every = [
        best_schedule(
            Problem(law=law, loss=loss, size=LARGE, growths=growth_bounds([one.ratio, other.ratio]), unit=None)
        ).compute
        for one in choices
        for other in choices
    ]
    assert plan.compute == pytest.approx(min(every))
    assert sum(one.compute for one in plan.stages) == pytest.approx(plan.compute)


def test_steps_and_batches_add_up_to_the_compute() -> None:
    for batch in (None, 1e6):
        plan = law_plan(
            LAWS["kaplan"],
            Target(params=LARGE, loss=None, num_stages=2, growths=growths(("width",), 2)),
            batch,
            lambda _: 1e-3,
        )
        for stage in plan.stages:
            assert 6 * stage.params * stage.batch_tokens * stage.steps == pytest.approx(stage.compute, rel=1e-4)
        first, second = plan.stages
        if batch is not None:
            assert second.rho == pytest.approx(first.last_step / second.restart_step, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "size", "loss", "words"),
    [("hoffmann", None, 1.5, "no model reaches it"), ("kaplan", 1e8, 2.0, "1e\\+08 parameters come to 2.8")],
)
def test_targets_out_of_reach_are_named(name: str, size: float | None, loss: float, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        law_plan(
            LAWS[name],
            Target(params=size, loss=loss, num_stages=2, growths=growths(("width",), 2)),
            5e5,
            lambda _: 1e-3,
        )
