"""Everything that `ckptgrow train` can be asked for can be asked for in a plan, and holds through stages and stops."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptgrow.cli import run as run_command
from ckptgrow.run.plan_reading import read_plan
from ckptgrow.run.staged_run import jobs_of, run_plan
from ckptgrow.run.standing import opened_run
from tests.helpers.commands import refused
from tests.helpers.staged_runs import TRAIN, assert_equal, journal, plan_file, run_here, state_of, words
from tests.helpers.training_runs import losses, tiny_data

FIRST: dict[str, Any] = {"steps": 12, "batch_size": 8, "seqlen": 16, "learning_rate": 3e-3}
SECOND: dict[str, Any] = {"operator": "width", "steps": 8}
OWN = {**TRAIN, "recipe": "staged-training", "adam_beta2": 0.97, "weight_decay": 0.05, "warmup_bsz": 900}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    stages = [{**FIRST, "warmup_share": 0.25}, SECOND]
    run_here(plan_file(directory, stages=stages, train=OWN), data, directory / "out")
    return directory / "out"


class Interrupting:
    """Listens, and sends the process a SIGINT after a step of training."""

    def __init__(self, stage: str, step: int) -> None:
        self._stage, self._step = stage, step

    def trained(self, stage: str, progress: Any) -> None:
        if (stage, progress.step) == (self._stage, self._step):
            os.kill(os.getpid(), signal.SIGINT)

    def writes(self, total: int) -> Any:
        return lambda amount: None

    def __getattr__(self, name: str) -> Any:
        return lambda *words: None


@pytest.mark.parametrize("stage", ["stage-1", "stage-2"])
def test_options_of_the_optimizer_hold_in_every_stage_and_after_every_stop(
    whole: Path, data: Path, tmp_path: Path, stage: str
) -> None:
    tree = torch.load(whole / stage / "checkpoints" / "last.ckpt", weights_only=True)
    for group in tree["optimizer_states"][0]["param_groups"]:
        assert group["betas"] == (0.9, 0.97) and group["eps"] == 1e-6 and group["weight_decay"] in (0.05, 0.0)
    run = tree["hyper_parameters"]["run"]
    assert run["grad_clip"] == 0 and run["growing"] == {"batch_tokens": 900, "sequence_tokens": 0}
    assert run["warmup_steps"] == 3  # a quarter of the first stage's steps
    step = {"stage-1": 5, "stage-2": 15}[stage]
    plan = read_plan(whole.parent / "plan.json")
    stopped = run_plan(plan, data, tmp_path / "out", Interrupting(stage, step))
    assert stopped.interrupted_by == signal.SIGINT
    run_here(whole.parent / "plan.json", data, tmp_path / "out")
    for name in ("stage-1", "stage-2"):
        assert_equal(*(state_of(one / name / "checkpoints" / "last.ckpt") for one in (tmp_path / "out", whole)))


def test_such_a_run_equals_its_commands_by_hand(whole: Path, tmp_path: Path) -> None:
    work, here = opened_run(whole), tmp_path / "by-hand"
    here.mkdir()
    (here / "first-model.json").write_text((whole / "first-model.json").read_text())
    for job in jobs_of(work.plan):
        for line in job.words(work):
            typed = shlex.split(shlex.join(line).replace(str(whole), str(here)))
            assert run_command(typed[1:]) == 0, typed
    for name in ("stage-1", "stage-2"):
        assert_equal(*(state_of(one / name / "checkpoints" / "last.ckpt") for one in (here, whole)))


def test_a_stage_ends_at_the_first_validation_that_is_low_enough(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [{**FIRST, "warmup": 3}, SECOND]
    run_here(plan_file(tmp_path, stages=[FIRST | {"warmup": 3, "steps": 24}]), data, tmp_path / "alone")
    validated = losses(tmp_path / "alone" / "stage-1", "val_loss")
    goal = sorted(validated.values())[len(validated) // 2]
    reached = min(step for step, loss in validated.items() if loss <= goal)
    assert reached < 24
    stages[0] |= {"steps": 24, "until_loss": goal, "schedule": "wsd"}
    plan = plan_file(tmp_path, stages=stages)
    for _ in range(2):  # started again, there is nothing left to do
        run_here(plan, data, tmp_path / "out")
    found = {one["job"]: one["result"] for one in journal(tmp_path / "out") if one["event"] == "done"}
    assert found["stage-1/train"]["loss_reached"] == found["stage-1/train"]["step"] == reached
    assert found["stage-1/train"]["slope_reached"] is None
    assert found["stage-2/train"]["step"] == reached + 8 and found["stage-2/train"]["loss_reached"] is None
    assert "ended by its loss" in "".join(capsys.readouterr())


def test_a_first_stage_begins_with_the_weights_of_any_checkpoint(whole: Path, data: Path, tmp_path: Path) -> None:
    source = whole / "stage-1" / "checkpoints" / "last.ckpt"
    plan = plan_file(tmp_path, config=None, init_from=str(source), stages=[{**FIRST, "steps": 1, "learning_rate": 0}])
    run_here(plan, data, tmp_path / "out")
    before, after = (state_of(one)["state_dict"] for one in (source, tmp_path / "out/stage-1/checkpoints/last.ckpt"))
    assert_equal(after, before)
    begun = torch.load(tmp_path / "out/stage-1/checkpoints/last.ckpt", weights_only=True)
    assert begun["global_step"] == 1 and begun["optimizer_states"][0]["state"][0]["step"] == 1


def test_a_first_stage_can_begin_its_checkpoints_optimizer_anew(whole: Path, data: Path, tmp_path: Path) -> None:
    source = whole / "stage-1" / "checkpoints" / "last.ckpt"
    stage = {"steps": 2, "train": {"reset": ["optimizer", "schedule"], "weight_decay": 0.2}}
    run_here(plan_file(tmp_path, config=None, checkpoint=str(source), stages=[stage]), data, tmp_path / "out")
    tree = torch.load(tmp_path / "out/stage-1/checkpoints/last.ckpt", weights_only=True)
    assert tree["global_step"] == 2 and tree["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stages": [FIRST, {**SECOND, "train": {"adam_beta2": 0.9}}]}, "stages[1].train: has betas, which the optimi"),
        ({"stages": [FIRST, {**SECOND, "train": {"recipe": "modern"}}]}, "stages[1].train.recipe: is for a new model"),
        ({"stages": [FIRST, {**SECOND, "train": {"reset": "data"}}]}, "say it in the stage's recipe"),
        ({"stages": [{**FIRST, "warmup": 3, "warmup_share": 0.1}]}, "stages[0]: has both warmup and warmup_share"),
        ({"stages": [{**FIRST, "warmup_share": 2}]}, "stages[0].warmup_share: is 2.0, expected a number, 0 to 1"),
        ({"stages": [{**FIRST, "until_los": 2}]}, "did you mean until_loss?"),
        ({"train": {"recipe": "moderne"}}, "train.recipe: is 'moderne', expected modern or staged-training"),
        ({"train": {"reset": "optimizer"}}, "train: has no field reset"),
        ({"train": {"adam_beta3": 0.9}}, "did you mean adam_beta"),
        ({"stages": [{**FIRST, "seqlen": 64}]}, "stage-1: --seqlen 64: expected at most the model's 16 positions"),
        (
            {"stages": [{**FIRST, "learning_rate": -1}]},
            "stages[0].learning_rate: is -1.0, expected a number, at l",
        ),
        ({"train": {"adam_beta2": 1}}, "train.adam_beta2: is 1.0, expected a number, at least 0 and below 1"),
        ({"stages": [FIRST, {**SECOND, "seqlen": 8}]}, "stage-2: has seqlen 8, expected 16 as in stage-1"),
        ({"stages": [FIRST, {**SECOND, "train": {"seed": 8}}]}, "stage-2: has seed 8, expected 3 as in stage-1"),
        ({"evaluate": {"perplexity": "val, nowhere.txt"}}, "stage-1: evaluate.perplexity: there is no file nowhere"),
        ({"evaluate": {"tasks": "lambadda"}}, "stage-1: --tasks lambadda: lm-eval has no such task"),
        ({"stages": [FIRST, {**SECOND, "evaluate": {"data": {"wikitext": "no"}}}]}, "stage-2: evaluate.data: there is"),
        ({"init_from": "x.ckpt"}, "config and init_from, expected one of config, size, checkpoint and init_from"),
    ],
)
def test_what_is_decided_already_is_refused_by_its_field(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    refused(words(plan_file(tmp_path, **changes), data, tmp_path / "out"), capsys, expected)
    assert not (tmp_path / "out").exists()


def test_an_optimizer_that_begins_anew_takes_the_stages_options(data: Path, tmp_path: Path) -> None:
    stages = [FIRST, {**SECOND, "recipe": {"reset": "optimizer"}, "train": {"weight_decay": 0.3}}]
    run_here(plan_file(tmp_path, stages=stages), data, tmp_path / "out")
    tree = torch.load(tmp_path / "out/stage-2/checkpoints/last.ckpt", weights_only=True)
    assert tree["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.3


def test_a_journal_of_fewer_fields_is_of_the_same_plan(whole: Path, data: Path) -> None:
    """As an earlier version wrote it, which had no `init_from`."""
    path = whole / "journal.jsonl"
    lines = path.read_text().splitlines()
    begun = json.loads(lines[0])
    assert begun["plan"].pop("init_from") is None
    assert all(stage.pop("until_loss") is None for stage in begun["plan"]["stages"])
    path.write_text("\n".join([json.dumps(begun), *lines[1:], ""]))
    run_here(whole.parent / "plan.json", data, whole)


def test_a_checkpoint_is_no_plan(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}}, tmp_path / "small.ckpt")
    refused(words(tmp_path / "small.ckpt", data, tmp_path / "out"), capsys, "is no text", "train --resume")
