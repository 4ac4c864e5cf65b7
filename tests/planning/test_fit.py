"""Constants that curves were made of come back, with errors as large as repeats say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ckptgrow.choices import LawForm
from ckptgrow.cli import run
from ckptgrow.errors import DataError, RequestError
from ckptgrow.planning import law_errors as law_errors_module
from ckptgrow.planning.fitting import fit, gather
from ckptgrow.planning.law_errors import block_length, law_errors, missed_by_blocks
from ckptgrow.planning.law_files import read_law
from ckptgrow.planning.law_regression import CONSTANTS
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
    for name in CONSTANTS[form]:
        assert getattr(found.law, name) == pytest.approx(getattr(LAWS[form], name), rel=2e-3), name
    assert found.residual < 1e-6


def test_noisy_curves_give_them_within_their_errors_and_the_errors_are_those_of_repeats() -> None:
    fits = [fit(gather(curves("kaplan", 1e-3, seed), TOKENS), "kaplan", "made") for seed in range(12)]
    for name in CONSTANTS["kaplan"]:
        values = np.array([getattr(one.law, name) for one in fits])
        errors = np.array([one.independent_errors[name] for one in fits])
        assert abs(values.mean() - getattr(LAWS["kaplan"], name)) < 4 * errors.mean() / 12**0.5, name
        assert 0.5 < values.std(ddof=1) / errors.mean() < 1.8, name  # χ² with 11 degrees of freedom


def correlated(form: LawForm, generator: np.random.Generator, correlation: float) -> list[tuple[float, Vector, Vector]]:
    """Curves of a law whose log losses have noise of a first-order process, of 0.2 %."""
    found: list[tuple[float, Vector, Vector]] = []
    for size, steps, losses in curves(form):
        noise = generator.standard_normal(len(steps))
        for place in range(1, len(noise)):
            noise[place] = correlation * noise[place - 1] + (1 - correlation**2) ** 0.5 * noise[place]
        found.append((size, steps, losses * np.exp(2e-3 * noise)))
    return found


@pytest.mark.slow
def test_intervals_mostly_hold_the_constants_where_neighbours_are_alike_and_those_of_independent_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(law_errors_module, "RESAMPLES", 60)
    generator = np.random.default_rng(1)
    num = 20
    hits, independent = dict.fromkeys(CONSTANTS["kaplan"], 0), dict.fromkeys(CONSTANTS["kaplan"], 0)
    for _ in range(num):
        found = fit(gather(correlated("kaplan", generator, 0.7), TOKENS), "kaplan", "made")
        errors = law_errors(found, "blocks", 0)
        for name in hits:
            exact = getattr(LAWS["kaplan"], name)
            hits[name] += errors.intervals[name][0] <= exact <= errors.intervals[name][1]
            independent[name] += abs(getattr(found.law, name) - exact) < 1.645 * found.independent_errors[name]
    assert min(hits.values()) >= 14, hits  # of 20 at 85 %, 13 or fewer have a chance of 1 in 50
    assert sum(hits.values()) > sum(independent.values()) + 6, (hits, independent)


@pytest.mark.slow
def test_errors_are_those_of_repeats_and_the_same_for_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law_errors_module, "RESAMPLES", 60)
    generator = np.random.default_rng(2)
    fits = [fit(gather(correlated("kaplan", generator, 0.7), TOKENS), "kaplan", "made") for _ in range(16)]
    errors = [law_errors(one, "blocks", 3) for one in fits]
    assert errors[0] == law_errors(fits[0], "blocks", 3) != law_errors(fits[0], "blocks", 4)
    for name in CONSTANTS["kaplan"]:
        repeats = float(np.std([getattr(one.law, name) for one in fits], ddof=1))
        told = float(np.mean([one.standard_errors[name] for one in errors]))
        assert 0.5 < told / repeats < 1.7, name  # χ² with 15 degrees of freedom; told ones are some 20 % low


def test_blocks_are_longer_the_more_alike_neighbours_are_and_see_what_a_means_variance_lacks() -> None:
    """The variance of a mean over n of a first-order process, by its autocovariances written out."""
    assert block_length(0.0, 60) == 1 and block_length(0.7, 60) < block_length(0.9, 60) <= 20
    for correlation, length in ((0.5, 4), (0.9, 20)):
        far = sum(correlation ** abs(lag) for lag in range(-2000, 2001))
        seen = (
            sum(correlation ** abs(one - other) for one in range(length) for other in range(length)) / length
        )  # of the mean of one block
        assert missed_by_blocks(correlation, length) == pytest.approx((far / seen) ** 0.5)
    assert missed_by_blocks(0.0, 1) == 1


def test_whole_curves_tell_what_every_run_has_of_its_own() -> None:
    """Six runs whose losses differ by a factor of their own: the errors of blocks miss it."""
    generator = np.random.default_rng(4)
    steps = np.linspace(2_000.0, 60_000.0, 40)
    made = [
        (size, steps, losses_of("kaplan", size, steps) * np.exp(4e-3 * generator.standard_normal() * np.ones(40)))
        for size in (1e7, 1e7, 4e7, 4e7, 1.6e8, 1.6e8)
    ]
    found = fit(gather(made, TOKENS), "kaplan", "made")
    whole = law_errors(found, "curves", 0)
    assert whole.block == () and whole.intervals["size_exponent"][0] < 0.077 < whole.intervals["size_exponent"][1]
    assert whole.standard_errors["size_exponent"] > 3 * found.independent_errors["size_exponent"]
    with pytest.raises(RequestError, match="3 curves, expected at least 5"):
        law_errors(fit(gather(curves("kaplan", 1e-3), TOKENS), "kaplan", "made"), "curves", 0)


def test_constants_on_bounds_are_refused_and_those_as_uncertain_as_themselves_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of three sizes with one curve, and models of nearly one size with noisy ones."""
    monkeypatch.setattr(law_errors_module, "RESAMPLES", 40)
    steps = np.linspace(2_000.0, 60_000.0, 60)
    noise = np.random.default_rng(5).standard_normal((2, 60))
    same = (3 + 2 / steps**0.5).tolist()
    flat = [write(tmp_path / f"flat-{number}.csv", steps.tolist(), same) for number in range(3)]
    vague = [
        write(tmp_path / f"vague-{number}.csv", steps.tolist(), (losses * np.exp(0.01 * noise[number])).tolist())
        for number, losses in enumerate(losses_of("kaplan", size, steps) for size in (1e8, 1.02e8))
    ]
    out, tokens = tmp_path / "law.yaml", ["--tokens-per-step", f"{TOKENS:g}"]
    sizes = ["--params", *[f"{size:g}" for size in SIZES]]
    assert run(["plan", "fit", *map(str, flat), *sizes, *tokens, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "size_exponent came to the bounds of the search" in error and not out.exists()
    assert run(["plan", "fit", *map(str, vague), "--params", "1e8", "1.02e8", *tokens, "--json"]) == 0
    printed = capsys.readouterr()
    assert "size_exponent" in json.loads(printed.out)["undetermined"]
    assert "as uncertain as they are large" in printed.err


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
    plot = tmp_path / "law.png"
    more = ["--tokens-per-step", f"{TOKENS:g}", "--out", str(out), "--plot", str(plot), "--json"]
    assert run([*arguments, *more]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    found = json.loads(capsys.readouterr().out)
    assert set(found["standard_errors"]) == set(found["fit"]["intervals"]) == set(CONSTANTS["kaplan"])
    assert found["fit"]["errors"] == "blocks" and found["fit"]["seed"] == 0 and found["undetermined"] == []
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
        ([log, log, "--params", "1e7", "2e7", "--tokens-per-step", "1e5", "--errors", "curve"], "--errors curve"),
        ([log, log, "--params", "1e7", "2e7", "--tokens-per-step", "1e5", "--seed", "-1"], "--seed"),
        ([log, log, "--params", "1e7", "2e7", "--tokens-per-step", "1e5", "--plot", "law.doc"], "law.doc"),
    ):
        assert run(["plan", "fit", *arguments]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and words in error, error
