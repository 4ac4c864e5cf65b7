"""A plan is executed as its commands by hand would be, and to the same bits however it is interrupted."""

from __future__ import annotations

import itertools
import json
import os
import random
import shlex
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptgrow.cli import run as run_command
from ckptgrow.run import forecast
from ckptgrow.run.plan_reading import plan_in
from ckptgrow.run.staged_run import jobs_of
from ckptgrow.run.standing import opened_run
from ckptgrow.train.occupied import occupied
from tests.helpers.commands import as_json, refused
from tests.helpers.processes import Started
from tests.helpers.staged_runs import (
    STAGES,
    TRAIN,
    assert_same_run,
    journal,
    plan_file,
    run_here,
    words,
)
from tests.helpers.training_runs import losses, tiny_data

Usage = namedtuple("Usage", ("total", "used", "free"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted; its plan lies beside it."""
    directory = tmp_path_factory.mktemp("whole")
    run_here(plan_file(directory), data, directory / "out")
    return directory / "out"


def test_the_loss_falls_through_every_growth(whole: Path) -> None:
    """Right after a growth it is that of before, and after the stage it is lower."""
    stages = [losses(whole / stage, "val_loss") for stage in ("stage-1", "stage-2", "stage-3")]
    for before, after in itertools.pairwise(stages):
        assert min(after) == max(before) + 4
        assert after[min(after)] < before[max(before)] + 0.02
        assert after[max(after)] < before[max(before)]
    results = {one["job"]: one["result"] for one in journal(whole) if one["event"] == "done"}
    assert results["stage-1/train"]["slope_reached"] == results["stage-1/train"]["step"] < 70
    assert results["stage-2/verify-width"]["passed"] and results["stage-3/verify-depth"]["passed"]


def test_a_run_equals_its_commands_by_hand(whole: Path, tmp_path: Path) -> None:
    work, here = opened_run(whole), tmp_path / "by-hand"
    here.mkdir()
    shutil.copy(whole / "first-model.json", here)
    for job in jobs_of(work.plan):
        for line in job.words(work):
            typed = shlex.split(shlex.join(line).replace(str(whole), str(here)))
            assert run_command(typed[1:]) == 0, typed
    assert_same_run(here, whole)


def signs(out: Path) -> int:
    """How far a run has come: lines of its journal and of its stages' logs."""
    files = [out / "journal.jsonl", *out.glob("*/metrics.csv")]
    return sum(len(one.read_text().splitlines()) for one in files if one.exists())


def interrupted(plan: Path, data: Path, out: Path, number: int, moments: list[tuple[int, float]]) -> int:
    """Starts the run once for each moment, so many signs of progress and seconds later than its start, sends it the
    signal then, and lets it end at last; returns how often a signal met it at work.
    """
    met = 0
    for progress, seconds in moments:
        goal = signs(out) + progress
        process = Started("ckptgrow", words(plan, data, out))
        while process.poll() is None and signs(out) < goal:
            time.sleep(0.001)
        time.sleep(seconds)
        if process.poll() is None:
            (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)
        code = process.wait()
        assert code in (0, -signal.SIGKILL, 128 + number)
        met += code != 0
    process = Started("ckptgrow", words(plan, data, out), streams=out.parent / "said")
    assert process.wait() == 0, (out.parent / "said.err").read_text()
    return met


@pytest.mark.sampled(1)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_again_and_again_is_the_same_run(
    whole: Path, data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    drawn = random.Random(int(number))
    moments = [(drawn.randint(1, 25), 0.03 * drawn.random()) for _ in range(3 if number == signal.SIGKILL else 1)]
    assert interrupted(whole.parent / "plan.json", data, tmp_path / "out", number, moments) == len(moments)
    assert_same_run(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_twenty_kills_change_nothing(whole: Path, data: Path, tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    met = interrupted(
        whole.parent / "plan.json",
        data,
        tmp_path / "out",
        signal.SIGKILL,
        [(drawn.randint(1, 5), 0.1 * drawn.random()) for _ in range(20)],
    )
    assert met >= 10
    assert_same_run(tmp_path / "out", whole)


def test_a_journal_that_was_cut_inside_a_line_is_read_up_to_it(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    text = (out / "journal.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    (out / "journal.jsonl").write_text("".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    run_here(whole.parent / "plan.json", data, out)
    assert [one["event"] for one in journal(out)][-2:] == ["begun", "done"]
    assert_same_run(out, whole)


def test_a_growth_that_loses_something_stops_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stacked copies change the function; nothing is trained on them, and nothing is removed."""
    first = {**STAGES[0], "steps": 4}
    del first["grow"]
    stages = [first, {"operator": "depth", "recipe": {"new": "copy"}, "steps": 4}]
    plan = plan_file(tmp_path, stages=stages, keep="newest")
    for _ in range(2):  # started again, it judges again
        capsys.readouterr()
        run_here(plan, data, tmp_path / "out", expected=1)
        said = capsys.readouterr().out
        assert "does not preserve the function" in said and "stage-2/verify-depth" in said
    assert (tmp_path / "out" / "stage-2.ckpt").exists() and not (tmp_path / "out" / "stage-2").exists()
    assert (tmp_path / "out" / "stage-1" / "checkpoints" / "last.ckpt").exists()
    assert journal(tmp_path / "out")[-1]["event"] == "failed"


@pytest.mark.parametrize(("keep", "left"), [("ends", {"stage-1", "stage-2"}), ("newest", {"stage-2"})])
def test_what_the_plan_does_not_keep_goes(data: Path, tmp_path: Path, keep: str, left: set[str]) -> None:
    first = {**STAGES[0], "steps": 5}
    del first["grow"]
    plan = plan_file(tmp_path, stages=[first, {"operator": "both", "steps": 5}], keep=keep)
    run_here(plan, data, tmp_path / "out")
    found = {one.relative_to(tmp_path / "out").as_posix() for one in (tmp_path / "out").rglob("*.ckpt")}
    assert found == {f"{stage}/checkpoints/last.ckpt" for stage in left}
    tree = torch.load(tmp_path / "out" / "stage-2" / "checkpoints" / "last.ckpt", weights_only=True)
    assert tree["hyper_parameters"]["config"]["n_embd"] == 24 and tree["hyper_parameters"]["config"]["n_layer"] == 4


def test_a_directory_is_for_one_plan_and_one_process(
    whole: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = plan_file(tmp_path, stages=[*STAGES[:1], {**STAGES[1], "steps": 13}, STAGES[2]])
    for more in ([], ["--dry-run"]):
        refused([*words(other, data, whole), *more], capsys, "stages[1].steps is 13, expected 12, with which", "--out")
    with occupied(whole):
        refused(words(whole.parent / "plan.json", data, whole), capsys, "one process")


def test_a_disk_without_room_is_foreseen(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 1000, 1000))
    refused(words(plan_file(tmp_path), data, tmp_path / "out"), capsys, "GiB free", "keep: ends")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stagess": []}, "did you mean stages?"),
        ({"stages": [{"stepss": 4}]}, "plan.stages[0]: has no field stepss; did you mean steps?"),
        ({"stages": [{"steps": "four"}]}, "plan.stages[0].steps: is 'four', expected a whole number"),
        ({"stages": [{"steps": 4, "train": {"val_evry": 3}}]}, "did you mean val_every?"),
        ({"stages": [STAGES[0], {"operator": "depth", "steps": 4, "recipe": {"how": "tile"}}]}, "has no field how"),
        ({"stages": [STAGES[0], {"operator": "width", "steps": 4, "recipe": {"how": "tiled"}}]}, "diagonal or tile"),
        ({"stages": [STAGES[0], {"operator": "widht", "steps": 4}]}, "expected width or depth or both"),
        ({"stages": [STAGES[0], {"steps": 4}]}, "lacks operator"),
        ({"stages": [STAGES[0]]}, "nothing comes behind the last stage"),
        ({"stages": [{}]}, "neither steps nor grow"),
        ({"size": "GPT2_base"}, "config and size"),
        ({"version": 9}, "version: is 9, expected 1"),
        ({"keep": "some"}, "expected all or ends or newest"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_its_field(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    refused(words(plan_file(tmp_path, **changes), data, tmp_path / "out"), capsys, expected)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_what_will_be(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GPT-2 has 12·layers·hidden² parameters without embeddings, 13·layers·hidden in biases and norms, and 2·hidden in
    the last norm; FLOPs are six times these and the tokens.
    """
    plan = plan_file(tmp_path)
    found = as_json([*words(plan, data, tmp_path / "out"), "--dry-run", "--measure=2"], capsys)
    sizes = [12 * layers * wide**2 + 13 * layers * wide + 2 * wide for layers, wide in ((2, 12), (2, 24), (4, 24))]
    stages = found["stages"]
    assert isinstance(stages, list)
    assert [one["params"] for one in stages] == sizes
    tokens = [70 * 8 * 16, 12 * 8 * 16, 12 * 8 * 16]
    assert [one["flops"] for one in stages] == [6 * n * d for n, d in zip(sizes, tokens, strict=True)]
    assert all(one["seconds_per_step"] > 0 for one in stages)
    assert not list(tmp_path.glob("**/.measured*")) and not (tmp_path / "out").exists()


def test_steps_that_this_machine_could_not_bear_are_not_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*words(plan_file(tmp_path), data, tmp_path / "out"), "--dry-run", "--measure=2"]
    for name, said in (("MOST_OF_MEMORY", "a micro-batch takes some"), ("MOST_MEASURED", "4 steps are ")):
        with monkeypatch.context() as patch:
            patch.setattr(forecast, name, 0.0)
            assert run_command(asked) == 0
        shown = capsys.readouterr().out
        assert f"stage-1: how long it takes was not measured here: {said}" in shown
        assert "of training by" not in shown


def test_the_plan_of_a_law_runs_as_its_own_commands_say(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option of the commands that the planner wrote is one of the run's, with the same value."""
    monkeypatch.chdir(tmp_path)
    asked = ["--target-params=1e6", "--stages=3", "--rewarm=10", "--seqlen=64", "--batch=4096", "--data", str(data)]
    assert run_command(["plan", "law", *asked, "--out=plan.yaml"]) == 0
    import yaml

    planned = yaml.safe_load(Path("plan.yaml").read_text())
    capsys.readouterr()
    found = as_json([*words(Path("plan.yaml"), data, Path("out")), "--dry-run", "--measure=0"], capsys)
    commands = found["commands"]
    assert isinstance(commands, list)
    executed = [options(one) for one in commands if " verify " not in one]
    written = [options(one) for stage in planned["stages"] for one in stage["commands"]]
    assert len(written) == len(executed) >= 5
    for ours, theirs in zip(executed, written, strict=True):
        assert {name: ours.get(name) for name in theirs} == theirs


PLACES = ("--out", "--config", "--resume")


def options(command: str) -> dict[str, object]:
    """A command's options, numbers as such, without places."""
    parts = shlex.split(command)
    pairs = {name: value for name, value in itertools.pairwise(parts) if name.startswith("--")}
    return {
        "command": parts[1],
        **{name: _value(value) for name, value in pairs.items() if name not in PLACES and value != "0"},
    }


def _value(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def test_slurm_gets_a_chain_of_jobs_that_wait_for_each_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in on the path takes the jobs; their own commands are run in their order, and out of it."""
    binaries, log = tmp_path / "bin", tmp_path / "log"
    binaries.mkdir()
    (binaries / "sbatch").write_text(f'#!/bin/sh\necho "$@" >> {log}\nexpr 100 + $(wc -l < {log})\n')
    (binaries / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    first = {**STAGES[0], "steps": 4}
    del first["grow"]
    plan = plan_file(tmp_path, stages=[first, {"operator": "depth", "steps": 4}], slurm={"partition": "long"})
    assert run_command([*words(plan, data, tmp_path / "out"), "--slurm", "--devices=2"]) == 0
    lines = log.read_text().splitlines()
    scripts = [Path(line.split()[-1]) for line in lines]
    assert [one.name for one in scripts] == [
        "01-stage-1-train.sbatch",
        "02-stage-2-depth.sbatch",
        "03-stage-2-verify-depth.sbatch",
        "04-stage-2-train.sbatch",
    ]
    assert ["afterok" in line for line in lines] == [False, True, True, True]
    assert "--dependency=afterok:102" in lines[2]
    texts = [one.read_text() for one in scripts]
    assert all("#SBATCH --partition=long\n" in text for text in texts)
    assert ["ntasks-per-node=2" in text for text in texts] == [True, False, False, True]
    commands = [shlex.split(text.splitlines()[-1])[1:] for text in texts]
    assert commands[0][-4:] == ["--nodes", "1", "--launcher", "srun"]
    refused(commands[1], capsys, "stage-1/train is not done")
    for command in commands:
        assert run_command(command[: command.index("--only") + 2]) == 0
    assert {one["job"] for one in journal(tmp_path / "out") if one["event"] == "done"} == {
        "stage-1/train",
        "stage-2/depth",
        "stage-2/verify-depth",
        "stage-2/train",
    }


@pytest.mark.slow
def test_two_processes_train_what_one_does(data: Path, tmp_path: Path) -> None:
    """Up to the rounding of the mean over processes."""
    first = {**STAGES[0], "steps": 8}
    del first["grow"]
    plan = plan_file(tmp_path, stages=[first, {"operator": "depth", "steps": 8, "batch_size": 8}])
    run_here(plan, data, tmp_path / "one")
    process = Started("ckptgrow", [*words(plan, data, tmp_path / "two"), "--devices=2"], streams=tmp_path / "said")
    assert process.wait() == 0, (tmp_path / "said.err").read_text()
    for stage in ("stage-1", "stage-2"):
        found, expected = (losses(tmp_path / one / stage, "val_loss") for one in ("two", "one"))
        assert found == pytest.approx(expected, abs=1e-4)


def test_status_tells_where_a_run_stands(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = as_json(["run", "--status", str(whole)], capsys)
    assert done["current"] is None and done["flops_left"] == 0
    under_way = tmp_path / "out"
    shutil.copytree(whole, under_way)
    lines = (under_way / "journal.jsonl").read_text().splitlines(keepends=True)
    end = next(n for n, line in enumerate(lines) if json.loads(line).get("job") == "stage-2/train")
    (under_way / "journal.jsonl").write_text("".join(lines[: end + 1]))
    found = as_json(["run", "--status", str(under_way)], capsys)
    assert found["current"] == "stage-2/train" and isinstance(found["progress"], dict)
    assert found["progress"]["step"] == max(losses(whole / "stage-2"))
    states = [one["state"] for one in found["jobs"]] if isinstance(found["jobs"], list) else []
    assert states == ["done", "done", "done", "interrupted", "waiting", "waiting", "waiting"]
    assert run_command(["run", "--status", str(under_way)]) == 0
    assert "stage-2/train, interrupted: the same command goes on there" in capsys.readouterr().out
    with occupied(under_way):
        assert run_command(["run", "--status", str(under_way)]) == 0
    shown = capsys.readouterr().out
    assert "under way" in shown and "interrupted" not in shown
    refused(["run", "--status", str(tmp_path)], capsys, "holds no run")


def test_the_schema_knows_every_option_of_the_commands_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--schema"]) == 0
    tree = json.loads(capsys.readouterr().out)
    stage = tree["properties"]["stages"]["items"]["properties"]
    for field in [*tree["properties"].values(), *stage.values()]:
        assert field["description"]
    recipe, train = stage["recipe"]["anyOf"][0]["properties"], stage["train"]["properties"]
    assert stage["recipe"]["anyOf"][1] == {"enum": ["probe"]}
    assert recipe["how"]["enum"] == ["diagonal", "tile", "pad"] and "pad" in recipe["how"]["description"]
    assert {"place", "new", "separate", "noise", "lr_rule", "hidden"} <= set(recipe)
    assert TRAIN.keys() <= set(train) and all(one.get("description") for one in train.values())
    assert stage["steps"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]


def test_a_journal_says_the_plan_that_it_is_of(whole: Path, data: Path) -> None:
    tree = journal(whole)[0]["plan"]
    plan, place = plan_in(tree)
    assert place == str(data) and [one.name for one in plan.stages] == ["stage-1", "stage-2", "stage-3"]
