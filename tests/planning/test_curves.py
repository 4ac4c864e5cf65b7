"""The paper's four pairs, exactly, and curves whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptgrow.cli import run
from ckptgrow.planning.growth_point import growth_point
from ckptgrow.planning.learning_curves import curve
from tests.helpers.curves import made, step_at, write, write_made
from tests.helpers.paths import ROOT

CURVES = ROOT / "fixtures" / "curves"
TOKENS = 512 * 1024
SIZES = {"base": (12, 768), "large": (24, 1536)}


def size(layers: int, width: int) -> int:
    return 12 * layers * width**2


@pytest.mark.parametrize("spikes", ["robust", "paper"])
@pytest.mark.parametrize(
    ("operator", "model", "saved", "steps", "rho"),
    [
        ("depth", "base", "13.2", (2949, 2149, 5099), "1.372"),
        ("depth", "large", "14.8", (6799, 4549, 7749), "1.495"),
        ("width", "base", "21.6", (3799, 2049, 5099), "1.854"),
        ("width", "large", "25.5", (6299, 3549, 7749), "1.775"),
    ],
)
def test_the_papers_pairs_come_out_exactly(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    spikes: str,
    operator: str,
    model: str,
    saved: str,
    steps: tuple[int, int, int],
    rho: str,
) -> None:
    layers, width = SIZES[model]
    half = size(layers // 2, width) if operator == "depth" else size(layers, width // 2)
    files = [str(CURVES / f"gpt2-{model}-div2-{operator}.csv"), str(CURVES / f"gpt2-{model}.csv")]
    params = ["--params", str(half), str(size(layers, width)), "--tokens-per-step", str(TOKENS)]
    plot = tmp_path / "plan.png"
    more = ["--plot", str(plot), "--json"]
    assert run(["plan", "curves", *files, "--operator", operator, *params, "--spikes", spikes, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{100 * found['saving']:.1f}" == saved and f"{found['rho']:.3f}" == rho
    assert (found["step_before"], found["step_target"], found["step_optimality"]) == steps
    low, high = found["saving_interval"]
    assert 0 < low < found["saving"] < high < low + 0.2 and found["is_distinguishable"] is True
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_power_laws_growth_points_are_the_closed_forms() -> None:
    """D log L / d log S = −0.5 (scale/S)^0.5 / L equals τ at a step that algebra gives."""
    small, large = made(3.0, 200.0, 1e6), made(2.5, 400.0, 2e6)
    found = growth_point(small, large, "width")
    assert found.step_before == pytest.approx(step_at(3.0, 200.0, -0.0475), rel=0.03)
    assert found.step_optimality == pytest.approx(step_at(2.5, 400.0, -0.052), rel=0.03)
    assert found.loss_at_growth == pytest.approx(3.0 + (200 / found.step_before) ** 0.5)
    assert found.step_target == pytest.approx(400 / (found.loss_at_growth - 2.5) ** 2, abs=50)


def test_spikes_are_dropped_and_lightnings_columns_understood(tmp_path: Path) -> None:
    steps = [float(one) for one in range(10, 310, 10)]
    losses = [10 / one**0.2 for one in steps]
    losses[12] *= 1.5
    found = curve(write(tmp_path / "metrics.csv", steps, losses, "val_loss", "step"), 1e6, 1e3)
    assert len(found.steps) == 29 and steps[12] not in found.steps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda steps, losses: (steps[:5], losses[:5]), ["5 evaluations", "10"]),
        (lambda steps, losses: (steps[::-1], losses), ["increasing"]),
        (lambda steps, losses: (steps, [*losses[:-1], float("nan")]), ["nan"]),
    ],
)
def test_bad_logs_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, words: list[str]
) -> None:
    steps = [float(one) for one in range(10, 310, 10)]
    log = write(tmp_path / "log.csv", *change(steps, [10 / one**0.2 for one in steps]))  # type: ignore[operator]
    arguments = ["--operator", "width", "--params", "1e6", "4e6", "--tokens-per-step", "1000"]
    assert run(["plan", "curves", str(log), str(log), *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error


def test_columns_and_orders_that_are_wrong_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [float(one) for one in range(50, 20_000, 50)]
    good = write(tmp_path / "good.csv", steps, [2.5 + (400 / one) ** 0.5 for one in steps])
    high = write(tmp_path / "high.csv", steps, [4.0 + (400 / one) ** 0.5 for one in steps])
    odd = write(tmp_path / "odd.csv", steps, [1.0] * len(steps), "perplexity")
    common = ["--operator", "width", "--tokens-per-step", "1000", "--params"]
    for arguments, words in (
        ([str(odd), str(good), *common, "1e6", "4e6"], ["perplexity", "Value"]),
        ([str(good), str(high), *common, "1e6", "4e6"], ["never reaches", "small first"]),
        ([str(good), str(good), *common, "4e6", "1e6"], ["--params"]),
        ([str(tmp_path / "none.csv"), str(good), *common, "1e6", "4e6"], ["none.csv"]),
    ):
        assert run(["plan", "curves", *arguments]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error


def test_a_curve_that_ends_before_its_crossing_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A running mean that repeats the end would flatten it, and cross there."""
    crosses = step_at(3.0, 500.0, -0.0475)
    short = write_made(tmp_path / "short.csv", 3.0, 500.0, until=0.7 * crosses)
    large = write_made(tmp_path / "large.csv", 2.6, 1200.0)
    arguments = ["--operator", "width", "--params", "1e6", "4e6", "--tokens-per-step", "1000"]
    assert run(["plan", "curves", str(short), str(large), *arguments]) == 2
    assert "never rises past -0.0475, expected a longer run" in capsys.readouterr().err


def test_curves_that_never_meet_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = write_made(tmp_path / "small.csv", 6.0, 500.0), write_made(tmp_path / "large.csv", 1.0, 100.0)
    arguments = ["--operator", "width", "--params", "1e6", "4e6", "--tokens-per-step", "1000"]
    assert run(["plan", "curves", str(small), str(large), *arguments]) == 2
    assert "begins below loss" in capsys.readouterr().err


def test_a_saving_below_zero_says_not_to_grow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The large model's steps cost hardly more, and it needs fewer to the small one's loss."""
    small, large = write_made(tmp_path / "small.csv", 3.0, 500.0), write_made(tmp_path / "large.csv", 2.6, 400.0)
    arguments = ["--operator", "width", "--tokens-per-step", "1000", "--params", "1e6", "1.01e6"]
    assert run(["plan", "curves", str(small), str(large), *arguments]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Do not grow: ") and "saves -" in said.out and "cannot be told" not in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["SMALL", "LARGE", "--params", "1e6", "4e6"],
        ["--params", "1e6", "4e6", "SMALL", "LARGE"],
        ["SMALL", "--params", "1e6", "--params", "4e6", "LARGE"],
        ["SMALL", "LARGE", "--params=1e6", "--params", "4e6"],
    ],
)
def test_params_are_given_one_after_the_other_or_each_behind_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    logs = {
        "SMALL": write_made(tmp_path / "small.csv", 3.0, 500.0),
        "LARGE": write_made(tmp_path / "large.csv", 2.6, 1200.0),
    }
    given = [str(logs.get(word, word)) for word in words]
    assert run(["plan", "curves", *given, "--operator", "width", "--tokens-per-step", "1000", "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)
    assert curves["saving"] > 0
    if "--params=1e6" in words or given[0].startswith("-"):
        return
    assert run(["plan", "fit", *given, "--tokens-per-step", "1000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["law"]["largest_fitted"] == 4e6


@pytest.mark.parametrize(
    ("params", "words"),
    [(["1e6"], "1 given for 2 models"), (["1e6", "4e6", "8e6"], "3 given"), ([], "--params")],
)
def test_other_numbers_of_params_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], params: list[str], words: str
) -> None:
    log = str(write_made(tmp_path / "log.csv", 3.0, 500.0))
    given = [part for value in params for part in ("--params", value)] or ["--params"]
    assert run(["plan", "curves", log, log, "--operator", "width", "--tokens-per-step", "1000", *given]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and words in error, error
