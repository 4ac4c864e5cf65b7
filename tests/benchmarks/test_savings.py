"""The benchmark of savings: its statistics against numbers worked out by hand, and the tiny tier from end to end."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.savings.__main__ import main
from benchmarks.savings.arms import chosen, plan
from benchmarks.savings.corpus import Launch
from benchmarks.savings.measures import Bound, compute_at, hull, interval, loss_at, saving, slope
from benchmarks.savings.shapes import Shape
from benchmarks.savings.tiers import DEPTH, QUICK, TIERS, TINY, WIDTH
from ckptgrow.cli import run

SHAPE = Shape(layers=2, hidden=8, ffn=24, heads=2)


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """One process for all commands, which imports torch once; in its main thread, where signals can be handled."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda arguments, log: pool.submit(call, list(arguments), log).result()


def call(arguments: list[str], log: Path) -> int:
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return run(arguments)


def test_the_hull_leaves_out_what_lies_above_and_what_no_longer_falls() -> None:
    points = [(1.0, 4.0), (2.0, 3.9), (4.0, 2.8), (8.0, 2.9), (16.0, 2.0), (16.0, 2.5), (32.0, 2.2)]
    assert hull(points) == [(1.0, 4.0), (4.0, 2.8), (16.0, 2.0)]
    assert hull([]) == []


def test_losses_and_compute_on_the_hull_are_linear_in_log_compute() -> None:
    curve = [(1.0, 4.0), (4.0, 3.0), (16.0, 2.0)]
    assert loss_at(curve, 2.0) == pytest.approx(3.5)
    assert loss_at(curve, 8.0) == pytest.approx(2.5)
    assert loss_at(curve, 17.0) is None
    assert compute_at(curve, 2.5).value == pytest.approx(8.0)
    assert compute_at(curve, 3.0).value == pytest.approx(4.0)


def test_a_loss_that_scratch_never_had_gives_a_bound() -> None:
    curve = [(1.0, 4.0), (4.0, 3.0)]
    assert compute_at(curve, 2.9) == Bound(4.0, "≥")
    assert compute_at(curve, 4.1) == Bound(1.0, "≤")
    assert saving(curve, 1.0, 2.9) == Bound(0.75, "≥")
    assert saving(curve, 1.0, 3.5).value == pytest.approx(0.5)  # scratch needs 2 for it
    assert saving(curve, 3.0, 3.5).value == pytest.approx(-0.5)


def test_the_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found.half is not None
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom, 97.5 %
    assert interval([]) is None
    alone = interval([1.5])
    assert alone is not None
    assert alone.half is None


def test_the_slope_is_a_power_laws_exponent() -> None:
    assert slope([(x, 3.0 * x**-0.07) for x in (1.0, 2.0, 5.0, 9.0)]) == pytest.approx(-0.07)


def test_parameters_and_flops_are_those_of_the_real_model() -> None:
    config = SHAPE.config(100, 16)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    blocks = sum(one.numel() for name, one in model.named_parameters() if "embed" not in name)
    assert SHAPE.num_block_parameters == blocks
    assert SHAPE.num_parameters(100) == sum(one.numel() for one in model.parameters())
    products = sum(one.weight.numel() for one in model.modules() if isinstance(one, torch.nn.Linear))
    gains = SHAPE.num_block_parameters + 100 * SHAPE.hidden - products
    cost = SHAPE.cost_per_token(100, 16)
    assert cost.whole == 6 * (products + gains) + 12 * 2 * 8 * 16
    assert cost.whole - cost.without == 6 * 100 * 8


@pytest.mark.parametrize("piece", [piece for tier in TIERS.values() for piece in tier], ids=lambda piece: piece.name)
def test_every_run_begins_where_its_parent_has_a_checkpoint_and_a_validation(piece) -> None:
    arms = {arm.name: arm for arm in plan(piece, {}).arms}
    for arm in arms.values():
        if arm.start is not None:
            parent = arms[arm.start.parent]
            every = parent.phase if parent.group == "small" else 8 * parent.phase
            assert arm.start.step % every == 0
            assert arm.start.step <= parent.steps * 4 // 5  # nothing has decayed yet
            assert arm.start.tokens == arm.start.step * parent.batch * piece.length
            assert arm.start.schedule_step % 5 == 0


def test_small_and_grown_runs_have_the_budget_of_the_large_one() -> None:
    large, small = (shape.cost_per_token(256, QUICK.length).whole for shape in (QUICK.large, QUICK.small))
    for arm in plan(QUICK, {}).arms:
        if arm.group == "small":
            assert arm.steps * small == pytest.approx(QUICK.steps * large, rel=0.03)
        if arm.group == "grown" and arm.start:
            spent = arm.start.step * small + (arm.steps - arm.start.schedule_step) * large
            assert spent == pytest.approx(QUICK.steps * large, rel=0.03)


def test_the_best_of_the_tuning_is_repeated_with_the_other_seeds() -> None:
    tuning = [arm for arm in plan(QUICK, {}).arms if not arm.tuned_by]
    finals = {arm.name: 2.0 for arm in tuning}
    best = next(arm for arm in tuning if arm.settings == (4e-3, 16, "cosine"))
    finals[best.name] = 1.0
    assert chosen(QUICK, finals, "scratch")[0] == best
    later = [arm for arm in plan(QUICK, finals).arms if arm.group == "scratch" and arm.tuned_by]
    assert {arm.settings for arm in later} == {best.settings}
    assert {(arm.seed, arm.share) for arm in later} == {(s, x) for s in (0, 1, 2) for x in (0.5, 1, 2)} - {(0, 1)}
    assert all(arm.start is None for arm in later)  # a cosine has no stable phase to branch off
    assert not all(plan(QUICK, {}).is_known.values())
    assert all(plan(QUICK, finals).is_known.values())


@pytest.mark.slow
def test_the_tiny_tier_runs_to_its_table_and_goes_on_where_it_was(
    tmp_path: Path, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tier", "tiny", "--out", str(tmp_path)]
    assert main([*arguments, "--only", "*scratch*"], launch) == 0
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert len(first) == 6
    assert "4 of 10 runs are missing" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert main(arguments, launch) == 0
    assert "all runs are there" in capsys.readouterr().err
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert len(after) == 10
    assert first.items() <= after.items()
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Complete." in text
    assert "| split | 0.5 | 1 | 2 |" in text
    assert (tmp_path / "savings-tiny.png").stat().st_size > 10_000
    grown = [arm for arm in plan(TINY, {}).arms if arm.group == "grown" and arm.start]
    small, large = (shape.cost_per_token(256, TINY.length).whole for shape in (TINY.small, TINY.large))
    for arm in grown:
        rows = json.loads((tmp_path / "results" / f"{arm.name}.json").read_text(encoding="utf-8"))["rows"]
        assert arm.start is not None
        later = (arm.steps - arm.start.schedule_step) * arm.batch * TINY.length
        assert rows[-1][1] == arm.start.tokens + later
        assert rows[-1][3] == pytest.approx(arm.start.tokens * small + later * large, rel=1e-12)  # sums of floats


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_every_recipe_runs(operator: str, tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    small, recipes = {"width": (TINY.small, WIDTH), "depth": (Shape(1, 16, 32, 2), DEPTH)}[operator]
    large = TINY.large if operator == "width" else Shape(2, 16, 32, 2)
    piece = replace(TINY, operator=operator, small=small, large=large, recipes=recipes, seeds=(0,), multipliers=(0.5,))
    monkeypatch.setattr("benchmarks.savings.__main__.TIERS", {"tiny": (piece,)})
    assert main(["--tier", "tiny", "--out", str(tmp_path)], launch) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Complete." in text
    assert all(f"| {recipe.name} | 0.5 | 0.5 | 1 |" in text for recipe in recipes)


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    arm = plan(TINY, {}).arms[0]
    path = tmp_path / "results" / f"{arm.name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"arm": {**arm.as_json(), "seed": 7}}))
    with pytest.raises(SystemExit, match="other settings"):
        main(["--tier", "tiny", "--out", str(tmp_path), "--report"])


def test_no_time_left_means_that_nothing_begins(
    tmp_path: Path, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--tier", "tiny", "--out", str(tmp_path), "--minutes", "0"], launch) == 0
    assert "runs left: 10" in capsys.readouterr().err
