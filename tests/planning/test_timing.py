"""When to grow late: savings against laws written out, laws moved to a curve, and mixing times that are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from ckptgrow.cli import run
from ckptgrow.errors import DataError, RequestError
from ckptgrow.planning import timing_figure
from ckptgrow.planning.growth_timing import Horizon, savings_by, through, timing
from ckptgrow.planning.law_files import draws_of, laws_of, write_law
from ckptgrow.planning.laws import LAWS
from ckptgrow.planning.learning_curves import Curve
from ckptgrow.planning.mixing import mixing_time
from tests.helpers.curves import Vector, noisy, write

BATCH, SMALL, LARGE = 5e5, 4e7, 1.6e8
WHOLE = Horizon(small=SMALL, large=LARGE, batch=BATCH, steps=20_000, decay_share=0.1)


def hoffmann(size: float, tokens: float) -> float:
    return 1.69 + 406.4 / size**0.34 + 410.7 / tokens**0.28


def kaplan(size: float, tokens: float) -> float:
    """The loss at which S steps and S_min agree, by bisection."""

    def off(loss: float) -> float:
        fewest = tokens / (BATCH + 2.1e8 / loss ** (1 / 0.21))
        return loss - (6.5e13 / size) ** 0.077 - (2.1e3 / fewest) ** 0.76

    return float(brentq(off, 0.5, 1e6, xtol=1e-12))  # pyright: ignore[reportArgumentType]


def saved_by_hand(law: Callable[[float, float], float], step: float) -> float:
    def tokens_to(size: float, loss: float) -> float:
        def off(log: float) -> float:
            return law(size, math.exp(log)) - loss

        return math.inf if off(46.0) > 0 else math.exp(brentq(off, 15.0, 46.0, xtol=1e-13))  # pyright: ignore

    rest = (WHOLE.steps - step) * BATCH
    end = law(LARGE, tokens_to(LARGE, law(SMALL, step * BATCH)) + rest)
    spent = SMALL * step * BATCH + LARGE * rest
    return 1 - spent / min(size * tokens_to(size, end) for size in (SMALL, LARGE))


@pytest.mark.parametrize(("name", "law"), [("hoffmann", hoffmann), ("kaplan", kaplan)])
def test_savings_are_those_of_the_law_written_out(name: str, law: Callable[[float, float], float]) -> None:
    found = savings_by(LAWS[name], WHOLE)
    for index in (4, 30, 60, 90):
        assert found.saved[index] == pytest.approx(saved_by_hand(law, float(found.steps[index])), abs=2e-4)
    assert found.best == int(np.argmax([saved_by_hand(law, float(one)) for one in found.steps]))


def curve_by(law: Callable[[float, float], float], until: float = 5_000.0, noise: float = 0.0) -> Curve:
    steps = np.arange(100.0, until, 100.0)
    losses = np.array([law(SMALL, step * BATCH) for step in steps])
    made = Curve(where="run", steps=steps, losses=losses, compute=6 * SMALL * BATCH * steps)
    return noisy(made, noise, np.random.default_rng(0)) if noise else made


@pytest.mark.parametrize(("name", "law"), [("hoffmann", hoffmann), ("kaplan", kaplan)])
def test_a_law_is_moved_to_where_the_curve_is(name: str, law: Callable[[float, float], float]) -> None:
    """A law of another scale of data, and one of another floor, come back to the one that made the curve."""
    right = LAWS[name]
    scaled, _ = through(curve_by(law), replace(right, data_scale=2.0 * right.data_scale), WHOLE)
    assert scaled.data_scale == pytest.approx(right.data_scale, rel=2e-3)
    floored = list(through(curve_by(law), replace(right, floor=right.floor + 0.3), WHOLE))[-1]
    assert floored.floor == pytest.approx(right.floor, abs=2e-3)


def test_a_curve_below_the_law_s_limit_moves_its_floor_alone_and_a_law_of_nothing_is_refused() -> None:
    high = replace(LAWS["hoffmann"], floor=4.0)
    assert [one.floor for one in through(curve_by(hoffmann), high, WHOLE)] == [pytest.approx(1.69, abs=2e-3)]
    tiny = curve_by(lambda size, tokens: 1e-3)
    with pytest.raises(DataError, match=r"below all that the law hoffmann lets"):
        timing(tiny, [high], WHOLE)


def test_the_answer_has_the_best_step_its_range_over_draws_and_the_latest_step() -> None:
    law = LAWS["hoffmann"]
    draws = [replace(law, size_exponent=law.size_exponent * (1 + shift)) for shift in np.linspace(-0.02, 0.02, 30)]
    found = timing(curve_by(hoffmann, noise=1e-3), [law, *draws], replace(WHOLE, mixing=1_500.0))
    assert found.best_step == pytest.approx(
        max(range(400, 20_000, 200), key=lambda one: saved_by_hand(hoffmann, one)), abs=600
    )
    low, high = found.saving_range
    assert low < found.saving < high and found.num_laws == 62 and found.misfit < 2e-3
    assert found.pays is not None and found.window is not None
    assert found.pays[0] <= found.window[0] <= found.best_step <= found.window[1] <= found.pays[1]
    assert found.latest == 20_000 - 2_000 - 1_500
    assert found.latest_saving == pytest.approx(16_500 * (LARGE - SMALL) / (20_000 * LARGE))
    with pytest.raises(RequestError, match="is at step 4900 already"):
        timing(curve_by(hoffmann), [law], replace(WHOLE, steps=4_000))


def pilot(tau: float, size: float = 0.05) -> tuple[Curve, Curve]:
    """A grown run from step 3,000 on, whose excess over scratch decays at a known rate."""
    steps = np.arange(50.0, 8_000.0, 50.0)
    losses = 2.5 + (1_000 / steps) ** 0.5
    late = steps >= 3_000
    excess = 1 + size * np.exp(-(steps[late] - 3_000) / tau)

    def curve(where: str, at: Vector, values: Vector) -> Curve:
        return Curve(where=where, steps=at, losses=values, compute=at)

    return curve("grown", steps[late], losses[late] * excess), curve("scratch", steps, losses)


def test_the_mixing_time_is_where_the_excess_has_decayed_and_noise_is_in_its_interval() -> None:
    exact = 500 * math.log(0.05 / 0.005)
    assert mixing_time(*pilot(500.0), 0.005).steps == pytest.approx(exact, abs=60)
    generator = np.random.default_rng(3)
    found = mixing_time(*(noisy(one, 5e-4, generator) for one in pilot(500.0)), 0.005)
    assert found.interval[0] <= exact + 60 and exact - 60 <= found.interval[1] and found.share_without == 0
    assert mixing_time(*pilot(500.0, size=-0.01), 0.005).steps == 0
    with pytest.raises(DataError, match=r"never stays within 0\.50%"):
        mixing_time(*pilot(1e5), 0.005)
    grown, scratch = pilot(500.0)
    with pytest.raises(DataError, match="has 0 evaluations at steps"):
        mixing_time(grown, replace(scratch, steps=scratch.steps / 10), 0.005)


def files(folder: Path) -> dict[str, str]:
    made = {"RUN": curve_by(hoffmann), **dict(zip(("GROWN", "SCRATCH"), pilot(500.0), strict=True))}
    return {
        name: str(write(folder / f"{name}.csv", one.steps.tolist(), one.losses.tolist())) for name, one in made.items()
    }


def arguments(folder: Path, words: list[str], steps: str = "20000", batch: float = BATCH) -> list[str]:
    named = files(folder)
    if batch != BATCH:
        curve = curve_by(lambda size, tokens: hoffmann(size, tokens * batch / BATCH))
        write(Path(named["RUN"]), curve.steps.tolist(), curve.losses.tolist())
    given = ["RUN", "--params", f"{SMALL}", f"{LARGE}", "--tokens-per-step", f"{batch}", "--train-steps", steps]
    return ["plan", "timing", *[named.get(word, word) for word in [*given, *words]]]


def test_the_command_tells_when_with_the_draws_of_a_fitted_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law = LAWS["hoffmann"]
    draws = [
        replace(law, size_exponent=law.size_exponent * (1 + shift)) for shift in np.linspace(-0.02, 0.02, 250).tolist()
    ]
    path = tmp_path / "law.yaml"
    write_law(path, replace(law, name="own"), {"draws": draws_of(draws)})
    assert len(laws_of(str(path))) == 1 + 84 and laws_of(str(path))[1].size_exponent == draws[0].size_exponent
    assert run([*arguments(tmp_path, ["--law", str(path), "--pilot", "GROWN", "SCRATCH"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["laws"] == 170 and found["law"] == "own" and found["step"] == 4_900
    assert found["saving_range"][0] < found["saving"] < found["saving_range"][1]
    assert found["latest_step"] == 18_000 - found["mixing"] and found["mixing"] == pytest.approx(1151, abs=60)
    assert run(arguments(tmp_path, ["--law", "hoffmann", "--mixing", "1000"])) == 0
    said = capsys.readouterr().out
    assert "Growth pays from step" in said and "The run is at step 4,900: later than that, grow soon." in said
    assert "At the latest at step 17,000, 15% of the tokens after it" in said


def test_a_run_too_short_for_the_large_model_is_not_grown_and_what_makes_doubts_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(tmp_path, ["--law", "hoffmann", "--mixing", "6000"], steps="5000", batch=1e4)) == 0
    said = capsys.readouterr()
    assert "Do not grow: at no step of 5,000" in said.out and "leave no time to grow" in said.err
    write_law(tmp_path / "other.yaml", replace(LAWS["hoffmann"], floor=1.2), {})
    assert run(arguments(tmp_path, ["--law", str(tmp_path / "other.yaml")], steps="100000")) == 0
    said = capsys.readouterr()
    warned = " ".join(said.err.split())
    assert (
        "Not yet: the run is at step 4,900." in said.out
        and "tokens a parameter" in warned
        and "was found on other data" in warned
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tokens-per-step", "0"], "--tokens-per-step 0"),
        (["--train-steps", "0"], "--train-steps"),
        (["--train-steps", "4000"], "--train-steps 4000"),
        (["--law", "nowhere"], "--law nowhere"),
        (["--mixing", "-1"], "--mixing"),
        (["--mixing", "10", "--pilot", "GROWN", "SCRATCH"], "expected one of them"),
        (["--pilot", "GROWN", "nothing.csv"], "nothing.csv"),
        (["--decay-share", "1"], "--decay-share"),
        (["--tolerance", "-1"], "--tolerance"),
        (["--params", "4e7"], "3 given for 2 models"),
    ],
)
def test_bad_requests_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    given = arguments(tmp_path, words)
    if "--params" in words:
        given = [part for word in given for part in (("--params", word) if word in (f"{LARGE}",) else (word,))]
    assert run(given) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and said in error, error


def test_draws_that_are_none_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "law.yaml"
    for draws, said in (
        ([[1.0]], "draws are not rows of 5 numbers"),
        ([[1.0, 0.3, 400.0, -0.3, 1.0]], "data_exponent"),
    ):
        write_law(path, LAWS["hoffmann"], {"draws": draws})
        assert run(arguments(tmp_path, ["--law", str(path)])) == 2
        assert said in capsys.readouterr().err


def test_the_picture_has_what_growth_saves_by_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(timing_figure, "save", lambda figure, path: figures.append(figure))
    asked = arguments(tmp_path, ["--law", "hoffmann", "--mixing", "1000", "--plot"])
    assert run([*asked, str(tmp_path / "when.png")]) == 0
    (axes,) = figures[0].axes
    (line,) = [one for one in axes.lines if "by the law" in str(one.get_label())]
    for step, saved in list(zip(*line.get_data(), strict=True))[::20]:
        assert saved == pytest.approx(100 * saved_by_hand(hoffmann, step), abs=0.5)
    said = [str(text.get_text()) for text in axes.get_legend().get_texts()]
    assert any("step 17,000" in one for one in said) and any("the run is at step 4,900" in one for one in said)
    monkeypatch.undo()
    assert run([*asked, str(tmp_path / "when.png")]) == 0
    assert (tmp_path / "when.png").read_bytes().startswith(b"\x89PNG")
    assert run([*asked, "when.doc"]) == 2
