"""Any runs in one picture: a grown run begins where the run that its record names has ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptgrow.cli import run as run_command
from tests.helpers.commands import as_json
from tests.helpers.curves import write
from tests.helpers.staged_runs import STAGES, plan_file, run_here
from tests.helpers.training_runs import tiny_data


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A staged run of three stages."""
    directory = tmp_path_factory.mktemp("run")
    first = {**STAGES[0], "steps": 12}
    del first["grow"]
    stages = [first, {"operator": "depth", "steps": 12}, {"operator": "width", "steps": 8}]
    run_here(plan_file(directory, stages=stages), tiny_data(directory), directory / "out")
    return directory / "out"


def shown(words: list[Path | str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    runs = as_json(["plan", "show", *map(str, words)], capsys)["runs"]
    assert isinstance(runs, list)
    return runs


def test_stages_named_one_by_one_lie_where_the_runs_own_journal_puts_them(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shown([out], capsys)
    plot = tmp_path / "runs.png"
    named = shown([out / "stage-3", out / "stage-1", out / "stage-2", "--plot", str(plot)], capsys)
    assert plot.read_bytes().startswith(b"\x89PNG")
    order = [named[1], named[2], named[0]]
    assert [one["run"] for one in order] == [str(out / f"stage-{number}") for number in (1, 2, 3)]
    assert [one["grown_from"] for one in order] == [None, str(out / "stage-1"), str(out / "stage-2")]
    for one, other in zip(order, whole, strict=True):
        assert one["params"] == other["params"] and one["last"] == other["last"]
        assert one["flops"] == pytest.approx(other["flops"])
        assert one["curve"] == [[pytest.approx(flops), loss] for flops, loss in other["curve"]]


def test_a_grown_run_alone_says_no_parent_and_two_that_could_be_it_are_named(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [one["grown_from"] for one in shown([out / "stage-3", out / "stage-1"], capsys)] == [None, None]
    shutil.copytree(out / "stage-1", tmp_path / "twin")
    assert run_command(["plan", "show", *map(str, (out / "stage-1", tmp_path / "twin", out / "stage-2"))]) == 2
    error = capsys.readouterr().err
    assert "may be grown from" in error and "name that one alone" in error


def test_logs_of_other_trainers_lie_at_six_times_parameters_and_tokens(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [float(one) for one in range(10, 210, 10)]
    log = write(tmp_path / "log.csv", steps, [5 - one / 100 for one in steps], "val_loss", "step")
    found = shown([log, out / "stage-1", "--params", "1000", "--tokens-per-step", "32"], capsys)
    assert found[0]["curve"] == [[6 * 1000 * 32 * step, pytest.approx(5 - step / 100)] for step in steps]
    assert run_command(["plan", "show", str(out)]) == 0
    table = capsys.readouterr().out
    assert "grown from" in table and "stage-3" in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["log.csv"], "is not a directory of ckptgrow, expected --params N and --tokens-per-step"),
        (["nothing"], "nothing"),
        (["stage-1", "--params", "1e6", "--tokens-per-step", "32"], "--params: 1 given for runs that say"),
        (["stage-1", "--tokens-per-step", "0"], "--tokens-per-step 0"),
        (["stage-1", "--plot", "runs.doc"], "runs.doc"),
    ],
)
def test_bad_requests_are_one_line(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    steps = [float(one) for one in range(10, 210, 10)]
    write(tmp_path / "log.csv", steps, [5.0] * len(steps))
    places = {"log.csv": tmp_path / "log.csv", "stage-1": out / "stage-1", "nothing": tmp_path / "nothing"}
    assert run_command(["plan", "show", *(str(places.get(word, word)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and said in error, error
