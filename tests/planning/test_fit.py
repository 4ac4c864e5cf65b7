"""Constants that curves were made of come back, with errors as large as repeats say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ckptgrow.choices import LawForm
from ckptgrow.cli import run
from ckptgrow.errors import DataError
from ckptgrow.planning.fitting import NAMES, fit, gather
from ckptgrow.planning.law_files import read_law
from ckptgrow.planning.laws import LAWS
from tests.helpers.curves import Vector, write

SIZES, TOKENS = (1e7, 4e7, 1.6e8), 5e5


def losses_of(form: LawForm, size: float, steps: Vector) -> Vector:
    """The papers' equations written out; Kaplan's loss at a fixed batch is where both of its sides agree."""
    if form == "hoffmann":
        return 1.69 + 406.4 / size**0.34 + 410.7 / (steps * TOKENS) ** 0.28
    losses = np.full_like(steps, 5.0)
    for _ in range(200):
        fewest = steps / (1 + 2.1e8 / losses ** (1 / 0.21) / TOKENS)
        losses = (6.5e13 / size) ** 0.077 + (2.1e3 / fewest) ** 0.76
    return losses


def curves(form: LawForm, noise: float = 0.0, seed: int = 0) -> list[tuple[float, Vector, Vector]]:
    generator = np.random.default_rng(seed)
    steps = np.linspace(2_000.0, 60_000.0, 60)
    return [
        (size, steps, losses_of(form, size, steps) * np.exp(noise * generator.standard_normal(60))) for size in SIZES
    ]


@pytest.mark.parametrize("form", ["kaplan", "hoffmann"])
def test_exact_curves_give_their_constants_back(form: LawForm) -> None:
    found = fit(gather(curves(form), TOKENS), form, "made")
    for name in NAMES[form]:
        assert getattr(found.law, name) == pytest.approx(getattr(LAWS[form], name), rel=2e-3), name
    assert found.residual < 1e-6


def test_noisy_curves_give_them_within_their_errors_and_the_errors_are_those_of_repeats() -> None:
    fits = [fit(gather(curves("kaplan", 1e-3, seed), TOKENS), "kaplan", "made") for seed in range(12)]
    for name in NAMES["kaplan"]:
        values = np.array([getattr(one.law, name) for one in fits])
        errors = np.array([one.standard_errors[name] for one in fits])
        assert abs(values.mean() - getattr(LAWS["kaplan"], name)) < 4 * errors.mean() / 12**0.5, name
        assert 0.5 < values.std(ddof=1) / errors.mean() < 1.8, name  # χ² with 11 degrees of freedom


def test_outliers_hardly_matter() -> None:
    points = curves("kaplan", 5e-4)
    for _, _, losses in points:
        losses[::10] *= 1.05
    found = fit(gather(points, TOKENS), "kaplan", "made")
    assert found.law.size_exponent == pytest.approx(0.077, rel=0.02)
    assert found.law.data_exponent == pytest.approx(0.76, rel=0.05)


def test_too_few_sizes_are_named() -> None:
    with pytest.raises(DataError, match="2 sizes, expected at least 3 for the hoffmann form"):
        fit(gather(curves("hoffmann")[:2], TOKENS), "hoffmann", "made")


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_fitted_law_is_written_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    arguments = ["plan", "fit"]
    for number, (size, steps, losses) in enumerate(curves("kaplan")):
        log = write(tmp_path / f"{number}.csv", steps.tolist(), losses.tolist(), "val_loss", "step")
        arguments += [str(log), "--params", f"{size:g}"]
    out = tmp_path / f"law.{ending}"
    assert run([*arguments, "--tokens-per-step", f"{TOKENS:g}", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["standard_errors"]) == set(NAMES["kaplan"])
    assert read_law(out).options() == found["law"]
    assert run(["plan", "law", "--law", str(out), "--target-params", "1e9", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert run(["plan", "law", "--target-params", "1e9", "--json"]) == 0
    assert own["saving"] == pytest.approx(json.loads(capsys.readouterr().out)["saving"], abs=1e-3)


def test_wrong_requests_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size, steps, losses = curves("kaplan")[0]
    log = str(write(tmp_path / "log.csv", steps.tolist(), losses.tolist()))
    for arguments, words in (
        ([log, "--params", "1e7", "--params", "2e7", "--tokens-per-step", "1e5"], "2 given for 1 curves"),
        ([log, "--params", f"{size:g}", "--tokens-per-step", "0"], "--tokens-per-step"),
        ([log, "--params", f"{size:g}", "--tokens-per-step", "1e5"], "1 sizes, expected at least 2"),
        ([log, "--params", f"{size:g}", "--tokens-per-step", "1e5", "--form", "linear"], "--form linear"),
        ([log, "--params", f"{size:g}", "--tokens-per-step", "1e5", "--from-step", "59000"], "from step 59000 on"),
    ):
        assert run(["plan", "fit", *arguments]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and words in error, error
