"""When a run grows, by its steps and its validations."""

from __future__ import annotations

import pytest

from ckptgrow.live.live_growth import asked_growth
from ckptgrow.planning.learning_curves import FEWEST
from ckptgrow.train.growth_moment import GrowthMoment

WIDER = asked_growth({"width": 2})


def falling(step: int) -> float:
    """Its slope d log L / d log C is −½ (1 − 2/L), −1/8 at step 20.25."""
    return 2 + 3 / step**0.5


def test_a_step_is_the_moment_once() -> None:
    moment = GrowthMoment.checked(3, None, WIDER)
    assert [moment.stepped(step) for step in (1, 2, 3, 3, 4)] == [False, False, True, False, False]
    assert moment.is_due and moment.reached == 3
    moment.grown_at = 3
    assert not moment.is_due and not moment.stepped(3)


def test_the_slope_is_the_moment_once() -> None:
    moment = GrowthMoment.checked(None, -0.125, WIDER)
    found = [step for step in range(1, 60) if moment.validated(step, falling(step))]
    assert len(found) == 1 and 15 <= found[0] <= 30 and moment.reached == found[0]


def test_validations_of_a_model_that_has_grown_since_do_not_count() -> None:
    moment = GrowthMoment.checked(None, -0.125, WIDER)
    for step in range(1, 20):
        assert not moment.validated(step, falling(step))
    later = [step for step in range(20, 60) if moment.validated(step, falling(step), since=19)]
    assert len(later) == 1 and later[0] >= 19 + FEWEST


@pytest.mark.parametrize(("options", "tau"), [({"width": 2}, -0.0475), ({"depth": 2}, -0.0575), ({"ffn": 9}, -0.0475)])
def test_auto_is_the_papers_slope_of_the_operator(options: dict[str, int], tau: float) -> None:
    assert GrowthMoment.checked(None, "auto", asked_growth(options)).tau == tau
