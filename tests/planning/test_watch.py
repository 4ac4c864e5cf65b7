"""A live run is told when to grow, how sure that is, and at which step to expect it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptgrow.cli import run
from ckptgrow.planning import watch_figure
from ckptgrow.planning.watching import inflated_variance, predicted_step, watch
from tests.helpers.curves import SMALL, made, noisy, step_at, write_made

TAU = -0.0475
CROSSES = step_at(*SMALL, TAU)


@pytest.mark.parametrize("until", [0.5 * CROSSES, 0.9 * CROSSES])
def test_before_the_crossing_a_run_is_not_to_grow_and_the_step_is_predicted(until: float) -> None:
    found = watch(made(*SMALL, 1e6, until=until), TAU)
    assert not found.is_time and found.is_sure and found.crossed_at is None
    assert found.predicted == pytest.approx(CROSSES, rel=1e-3)
    above = (500.0 / found.step) ** 0.5
    assert found.slope == pytest.approx(-0.5 * above / (3 + above), rel=0.01)


def test_after_the_crossing_it_is_time() -> None:
    found = watch(made(*SMALL, 1e6, until=1.3 * CROSSES), TAU)
    assert found.is_time and found.is_sure
    assert found.crossed_at == pytest.approx(CROSSES, rel=0.03)
    assert found.predicted == pytest.approx(CROSSES, rel=1e-3)


def test_noise_is_in_the_interval_and_makes_a_run_near_the_crossing_unsure() -> None:
    generator = np.random.default_rng(0)
    runs = [watch(noisy(made(*SMALL, 1e6, until=1.02 * CROSSES), 1e-3, generator), TAU) for _ in range(12)]
    above = (500.0 / runs[0].step) ** 0.5
    exact = -0.5 * above / (3 + above)
    hits = sum(one.slope_interval[0] <= exact <= one.slope_interval[1] for one in runs)
    assert hits >= 8  # of 12 at 90 %, 7 or fewer have a chance of 1 in 200
    assert sum(not one.is_sure for one in runs) > 7
    predicted = [one.predicted for one in runs if one.predicted is not None]
    assert np.median(predicted) == pytest.approx(CROSSES, rel=0.25)


def test_the_variance_of_correlated_noise_is_inflated_as_a_means_is() -> None:
    """The mean of a first-order process has the variance σ²/n · (1 + r)/(1 − r)."""
    generator = np.random.default_rng(1)
    noise = generator.standard_normal(200_000)
    for place in range(1, len(noise)):
        noise[place] = 0.5 * noise[place - 1] + 0.75**0.5 * noise[place]
    means = noise.reshape(-1, 200).mean(axis=1)
    assert inflated_variance(noise) == pytest.approx(200 * means.var(), rel=0.15)


def test_a_slope_that_never_rises_so_far_is_not_predicted() -> None:
    assert predicted_step(made(0.0, 1e6, 1e6), TAU) is None  # a pure power law's slope stays at −0.5


def test_the_command_reads_a_runs_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "version_0").mkdir()
    write_made(tmp_path / "version_0" / "metrics.csv", *SMALL, until=1.3 * CROSSES)
    assert run(["plan", "watch", str(tmp_path), "--operator", "width", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["grow_now"] is True and found["predicted_step"] == pytest.approx(CROSSES, rel=1e-3)
    assert found["slope_interval"][0] <= found["slope"] <= found["slope_interval"][1]
    assert run(["plan", "watch", str(tmp_path), "--operator", "both"]) == 0
    assert "Not yet: the slope has not risen past τ = -0.03" in capsys.readouterr().out
    for arguments, words in (
        ([str(tmp_path), "--operator", "x"], "--operator x"),
        ([str(tmp_path / "no")], "--operator"),
    ):
        assert run(["plan", "watch", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert run(["plan", "watch", str(tmp_path / "none"), "--operator", "width"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_picture_has_the_slope_that_a_power_law_has_and_where_it_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(watch_figure, "save", lambda figure, path: figures.append(figure))
    write_made(tmp_path / "metrics.csv", *SMALL, until=1.3 * CROSSES)
    words = ["plan", "watch", str(tmp_path), "--operator", "width", "--plot"]
    assert run([*words, str(tmp_path / "watch.png")]) == 0
    losses, slope = figures[0].axes
    steps, slopes = slope.lines[0].get_data()
    above = (500.0 / steps) ** 0.5
    assert slopes == pytest.approx(-0.5 * above / (3 + above), rel=0.02)
    assert list(losses.lines[0].get_ydata()) == pytest.approx(3 + above, rel=1e-5)
    (crossed,) = [line.get_xdata()[0] for line in slope.lines if "the rule" in str(line.get_label())]
    assert crossed == pytest.approx(CROSSES, rel=0.03)
    monkeypatch.undo()
    assert run([*words, str(tmp_path / "watch.png")]) == 0
    assert (tmp_path / "watch.png").read_bytes().startswith(b"\x89PNG")
    assert run([*words, "watch.doc"]) == 2
