"""Recipes are said to differ where the interval of their difference lies on one side of zero, and not otherwise."""

from __future__ import annotations

import pytest

from ckptgrow.evaluate.score_comparison import Difference
from ckptgrow.planning.paired_differences import Interval95
from ckptgrow.probe.report_of_probe import left_behind, ranking, verdict
from ckptgrow.probe.standings import Place


def test_who_is_level_with_the_winner_is_not_called_behind() -> None:
    assert [verdict(name, "a", ["b"]) for name in "abc"] == ["lowest", "no difference seen", "behind"]
    assert ranking("a", ["b"], 256) == "a has the lowest mean loss after 256 steps, with no difference seen to b"
    assert verdict("a", "a", []) == "best" and ranking("a", [], 256) == "a is best after 256 steps"


@pytest.mark.parametrize(
    ("low", "said"), [(-0.01, "no difference seen, left out by rank at 64 steps"), (0.01, "behind at 64 steps")]
)
def test_who_was_left_out_without_a_difference_is_not_called_behind(low: float, said: str) -> None:
    place = Place(name="a", loss=2.0, behind=Interval95(0.02, low, 0.05), slope=-0.1)
    assert left_behind(place, 64) == said


@pytest.mark.parametrize(
    ("differences", "errors", "is_seen"),
    [((0.02,), (0.01,), True), ((0.019,), (0.01,), False), ((0.0, -0.3), (None, 0.1), True), ((0.3,), (None,), None)],
)
def test_scores_differ_by_more_than_two_paired_errors_or_not(
    differences: tuple[float, ...], errors: tuple[float | None, ...], is_seen: bool | None
) -> None:
    values = (0.5, *(0.5 + one for one in differences))
    row = Difference(task="t", metric="acc", values=values, differences=differences, standard_errors=errors)
    assert row.is_seen is is_seen
