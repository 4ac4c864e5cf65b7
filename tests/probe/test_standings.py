"""Who is ahead in a probe: where losses are heading, how sure the differences are, and what rungs cost."""

from __future__ import annotations

import numpy as np
import pytest

from ckptgrow.errors import RequestError
from ckptgrow.planning.paired_differences import mean_difference
from ckptgrow.probe.rungs import Cost, rungs_within
from ckptgrow.probe.standings import ranked

GROUPS = ((128,), (256,))
DRAWN = np.random.default_rng(0)
TEXTS = DRAWN.normal(3.0, 0.5, 200)  # what is common to all losses on a sequence


def curve(end: float, scale: float, exponent: float) -> dict[int, np.ndarray]:
    """L(t) = E + A · t^−c on every sequence, E as hard as the sequence is."""
    return {step: TEXTS * end + scale * step**-exponent for (step,) in GROUPS}


def test_losses_and_slopes_are_those_of_the_curves() -> None:
    """By hand; one curve is ahead now and the other falls faster."""
    runs = {"later": [curve(0.88, 2.0, 0.3)], "now": [curve(0.9, 1.0, 0.3)]}
    found = {one.name: one for one in ranked(runs, GROUPS, 0)}
    for name, (end, scale) in {"now": (0.9, 1.0), "later": (0.88, 2.0)}.items():
        assert found[name].loss == pytest.approx(TEXTS.mean() * end + scale * 256**-0.3, rel=1e-12)
        assert found[name].slope == pytest.approx(scale * (256**-0.3 - 128**-0.3) / np.log(2), rel=1e-9)
    assert list(found) == ["now", "later"]
    assert found["later"].behind.mean == pytest.approx(found["later"].loss - found["now"].loss, rel=1e-9)


def test_the_best_comes_first_and_what_is_level_holds_zero() -> None:
    base = curve(0.9, 1.0, 0.3)
    noise = DRAWN.normal(0, 0.05, len(TEXTS))
    level = {step: loss + noise - noise.mean() + 1e-4 for step, loss in base.items()}
    behind = {step: loss + 0.02 + 0.01 * noise for step, loss in base.items()}
    found = ranked({"behind": [behind], "level": [level], "base": [base]}, GROUPS, 0)
    assert [one.name for one in found] == ["base", "level", "behind"]
    assert found[1].behind.holds_zero and not found[2].behind.holds_zero
    assert found[0].behind.mean == 0


def test_draws_that_differ_widen_the_interval() -> None:
    """Two draws .02 apart say that a recipe is known to .014 (their standard deviation over √2) and no better."""
    base = curve(0.9, 0.0, 0.3)
    draws = [{step: loss + shift + 1e-4 * TEXTS for step, loss in base.items()} for shift in (0.0, 0.02)]
    (_, one) = ranked({"base": [base], "drawn": draws}, GROUPS, 0)
    alone = ranked({"base": [base], "drawn": draws[:1]}, GROUPS, 0)[1]
    assert one.behind.high - one.behind.mean == pytest.approx(1.96 * 0.02 / np.sqrt(2) / np.sqrt(2), rel=0.02)
    assert alone.behind.high - alone.behind.mean < 1e-4


def test_weights_that_wander_widen_the_interval() -> None:
    """Four measurements in a row with an error of .01 each: their mean has .005, a difference of two √2 times that; in
    the mean of 200 probes, for one alone has few measurements to tell it from.
    """
    groups = ((13, 14, 15, 16),)
    found: list[float] = []
    for seed in range(200):
        errors = np.random.default_rng(seed).normal(0, 0.01, (2, 4))
        runs = {name: [{step: TEXTS + error for step, error in zip(groups[0], row, strict=True)}]
                for name, row in zip("ab", errors, strict=True)}  # fmt: skip
        (_, one) = ranked(runs, groups, 0)
        found.append(((one.behind.high - one.behind.mean) / 1.96) ** 2)
    assert np.mean(found) == pytest.approx(2 * 0.005**2, rel=0.15)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """95 % of 400, five of their standard deviations (.011) allowed; samples of 60 are lopsided, which costs some."""
    drawn = np.random.default_rng(1)
    samples = [drawn.exponential(1.0, 60) for _ in range(400)]
    found = [mean_difference(one, np.ones(60), number) for number, one in enumerate(samples)]
    assert 0.89 < np.mean([one.holds_zero for one in found]) < 1


def test_equal_losses_have_no_interval() -> None:
    found = mean_difference(TEXTS, TEXTS, 0)
    assert (found.mean, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("budget", [1e4, 3e4, 4e5, 1e7])
def test_rungs_take_what_the_budget_pays_and_no_more(budget: float) -> None:
    """Counted by hand: ten to the first rung, five to the second, three to the third, and two controls all the way."""
    cost = Cost(runs=10, step=7.0, held_out=2.0)
    found = rungs_within(budget, cost)

    def by_hand(rungs: tuple[int, ...]) -> float:
        total = 0.0
        for steps, before, num in zip(rungs, (0, *rungs), (10, 5, 3), strict=False):
            measured = {round(int(steps / part) * sixteenths / 16) for part in (1, 2) for sixteenths in range(13, 17)}
            total += (num + 2) * (7.0 * (steps - before) + len(measured) * 2.0)
        return total

    assert cost.of(found) == by_hand(found) <= budget
    assert by_hand(tuple(4**rung * (found[0] + 1) for rung in range(len(found)))) > budget
    assert len(found) == {1e4: 1, 3e4: 2, 4e5: 3, 1e7: 3}[budget] and found[0] >= 16


def test_a_budget_that_pays_too_little_says_what_is_least() -> None:
    with pytest.raises(RequestError, match=r"expected at least 16, which are 1\.51e"):
        rungs_within(1000, Cost(runs=10, step=7.0, held_out=2.0))
