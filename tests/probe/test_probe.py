"""Recipes of growth are compared by short trainings: what cannot win does not; the same seed gives the same bytes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ckptgrow.cli import run as run_command
from ckptgrow.probe import probing
from ckptgrow.probe.arms import Trace
from ckptgrow.probe.candidates import in_file, named, typed
from ckptgrow.probe.entrants import ProbeRequest
from ckptgrow.probe.side_by_side import Task
from tests.helpers.commands import as_json, refused
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here

SPLIT, TRAPPED, BROKEN = "width --separate split", "width --separate none", "width --lr 1e20 --grad-clip 0"
STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def small(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps."""
    out = tmp_path_factory.mktemp("small") / "out"
    config = config_file(data.parent)
    train_here([f"--data={data}", f"--config={config}", f"--out={out}", "--train-steps=40", "--batch-size=8"])
    return out / "checkpoints" / "last.ckpt"


def asked(small: Path, data: Path, *more: str) -> list[str]:
    return ["probe", str(small), f"--data={data}", f"--steps={STEPS}", "--sequences=12", *more]


PLANTED = [f"--candidate={one}" for one in (TRAPPED, BROKEN, SPLIT, "width --lr-rule mup")]


@pytest.fixture(scope="module")
def planted(small: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a probe with two that cannot win prints, and where its arms lie."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        assert run_command(asked(small, data, *PLANTED, f"--work={work}", "--json")) == 0
    return printed[-1], work


def test_what_is_trapped_and_what_diverges_never_wins(planted: tuple[str, Path]) -> None:
    found = json.loads(planted[0])
    out = {one["name"]: one["out"] for one in found["candidates"]}
    assert "trapped" in out[TRAPPED] and "finite number" in out[BROKEN]
    assert out[SPLIT] is None and out["width --lr-rule mup"] is None
    assert [one["name"] for one in found["candidates"]][2:] == [TRAPPED, BROKEN] or out[found["winner"]] is None
    assert found["winner"] in (SPLIT, "width --lr-rule mup")
    assert not set(found["level"]) & {TRAPPED, BROKEN, found["winner"]}


def test_the_same_seed_gives_the_same_bytes(
    planted: tuple[str, Path], small: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Elsewhere, in a directory that goes."""
    capsys.readouterr()
    assert run_command(asked(small, data, *PLANTED, "--json")) == 0
    assert capsys.readouterr().out.strip() == planted[0]


def test_what_a_run_logs_and_saves_rarely_changes_nothing(
    small: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = [f"--candidate={SPLIT}"]
    often = as_json(asked(small, data, *one), capsys)
    rarely = as_json(asked(small, data, *one, "--train=--log-every 50 --val-every 2 --save-every 3"), capsys)
    assert {**rarely, "commands": []} == {**often, "commands": []}


def test_the_winner_s_commands_do_what_the_probe_did(
    planted: tuple[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed by hand they grow and train to the same held-out loss, to the bit."""
    found = json.loads(planted[0])
    monkeypatch.chdir(tmp_path)
    grow, train = found["commands"]
    assert shlex.split(shlex.join(grow)) == grow and grow[:2] == ["ckptgrow", "width"]
    assert run_command(grow[1:]) == 0
    more = ["--schedule=constant", "--train-steps=100", f"--stop-at={40 + STEPS}", "--val-every=1000", "--log-every=1"]
    assert run_command([*train[1:], *more]) == 0
    row = next(one for one in found["candidates"] if one["name"] == found["winner"])
    number = [TRAPPED, BROKEN, SPLIT, "width --lr-rule mup"].index(found["winner"])
    kept = np.load(planted[1] / f"candidate-{number}-0" / f"held-out-{STEPS}.npy")
    assert kept == pytest.approx(by_hand(tmp_path / "grown" / "checkpoints" / "last.ckpt", data), abs=1e-6)  # float32
    small_losses, grown_losses = (losses(one) for one in (planted[1] / "small" / "out", tmp_path / "grown"))
    excess = [grown_losses[step] - small_losses[step] for step in grown_losses]
    assert row["spike"] == pytest.approx(max(np.convolve(excess, np.ones(5) / 5, "valid")), rel=1e-9)


def by_hand(checkpoint: Path, data: Path) -> list[float]:
    """transformers' own loss of twelve sequences of 16 tokens, evenly over the validation tokens."""
    tree = torch.load(checkpoint, weights_only=True)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tree["hyper_parameters"]["config"])).eval()
    model.load_state_dict({name.removeprefix("model."): one for name, one in tree["state_dict"].items()})
    tokens = np.fromfile(data / "val.bin", dtype=np.uint16).astype(np.int64)
    places = np.linspace(0, (len(tokens) - 1) // 16 - 1, 12).astype(int) * 16
    cut = [torch.from_numpy(tokens[place : place + 17]) for place in places]
    with torch.no_grad():
        return [
            float(torch.nn.functional.cross_entropy(model(input_ids=one[None, :-1]).logits[0], one[1:])) for one in cut
        ]


def test_every_arm_sees_the_same_batches(planted: tuple[str, Path]) -> None:
    """So that the first step's loss, right after a growth that is exact, is the small model's."""
    arms = [losses(one / "out") for one in (planted[1] / "small", *planted[1].glob("candidate-[123]-0"))]
    assert len(arms) == 4
    assert [one[41] for one in arms] == pytest.approx([arms[0][41]] * 4, abs=1e-6)


class Killed(Exception):  # noqa: N818  a stand-in for a signal
    pass


@pytest.mark.parametrize("after", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_probe_that_was_ended_goes_on(
    small: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Ended between arms, in the middle of the rungs: what comes out is what an uninterrupted one gives."""
    candidates = tuple(typed(one) for one in (SPLIT, "width --reset new --rewarm-new 1.5,4", "depth"))
    request = ProbeRequest(candidates=candidates, steps=(4, 8), sequences=8)
    whole = probing.probe(small, data, tmp_path / "whole", request)
    heard: list[str] = []

    def hear(self: Any, task: Task, trace: Trace) -> None:
        heard.append(task.arm.name)
        if len(heard) == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(probing._Probe, "_heard", hear)
        with pytest.raises(Killed):
            probing.probe(small, data, tmp_path / "killed", request)
    assert probing.probe(small, data, tmp_path / "killed", request).to_json() == whole.to_json()


def test_others_of_another_size_are_compared_at_equal_compute(small: Path, data: Path, tmp_path: Path) -> None:
    """GPT-2 has 12·layers·hidden² + 13·layers·hidden + 2·hidden parameters without embeddings: here 3,792, 14,496 if
    twice as wide and 7,560 if twice as deep.
    """
    request = ProbeRequest(candidates=(typed("width --factor 2"), typed("depth --factor 2")), steps=(4,), sequences=8)
    found = probing.probe(small, data, tmp_path, request)
    steps = [max(losses(tmp_path / f"candidate-{number}-0" / "out")) - 40 for number in (0, 1)]
    assert steps == [4, 8] and found.controls[0].steps == 15 and found.controls[1].steps == 4


def test_a_candidate_that_the_growth_refuses_says_why(small: Path, data: Path, tmp_path: Path) -> None:
    request = ProbeRequest(candidates=(typed("width --hidden 13 --how tile"), typed(SPLIT)), steps=(2,), sequences=4)
    found = probing.probe(small, data, tmp_path, request)
    assert found.winner.name == SPLIT
    (refused_one,) = [one for one in found.entries if one.out is not None]
    assert (
        refused_one.out is not None
        and refused_one.out.startswith("refused: ")
        and "copies come whole" in refused_one.out
    )


def test_draws_of_a_recipe_are_averaged(small: Path, data: Path, tmp_path: Path) -> None:
    request = ProbeRequest(
        candidates=(typed(SPLIT), typed("depth --new zero-output")), steps=(3,), sequences=8, seeds=2
    )
    found = probing.probe(small, data, tmp_path, request)
    kept = [[np.load(tmp_path / f"candidate-0-{draw}" / f"held-out-{step}.npy").mean() for step in (2, 3)]
            for draw in (0, 1)]  # fmt: skip
    assert kept[0] != kept[1] and not (tmp_path / "candidate-1-1").exists()
    row = next(one for one in found.entries if one.candidate.name == SPLIT)
    assert row.loss == pytest.approx(np.mean(kept), rel=1e-12)


def test_a_control_s_loss_is_the_mean_that_a_candidate_s_is(planted: tuple[str, Path]) -> None:
    """Of six steps those at 5 and 6, and those after as much compute of the small model."""
    found, work = json.loads(planted[0]), planted[1]
    assert [one["name"] for one in found["controls"]] == ["small model continued", "large model from scratch"]
    for control, name in zip(found["controls"], ("small", "scratch"), strict=True):
        steps = sorted(int(one.stem.rpartition("-")[2]) for one in (work / name).glob("held-out-*.npy"))
        kept = [np.load(work / name / f"held-out-{step}.npy").mean() for step in steps if step > 0.8 * steps[-1]]
        assert control["steps"] == steps[-1] and len(kept) == 2
        assert control["loss"] == pytest.approx(np.mean(kept), rel=1e-12)


@pytest.mark.slow
def test_processes_side_by_side_find_the_same(
    planted: tuple[str, Path], small: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    assert run_command(asked(small, data, *PLANTED, "--processes=2", "--json")) == 0
    assert capsys.readouterr().out.strip() == planted[0] and torch.get_num_threads() == threads


def test_candidates_come_from_tables_files_and_the_command_line(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("tiled: {operator: width, growth: {how: tile, reset: new}, train: {rewarm_new: [1.3, 100]}}\n")
    (tiled,) = in_file(own)
    assert tiled == typed("width --how tile --reset new --rewarm-new 1.3,100").__class__(
        name="tiled", operator="width", growth={"how": "tile", "reset": ("new",)}, train={"rewarm_new": (1.3, 100)}
    )
    every = named([], ["width", "depth"])
    assert len({one.name for one in every}) == len(every) >= 16
    assert [one.checked(one.name) for one in every] == every


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--candidates=splitt"], ("--candidates splitt", "split-mup")),
        (["--candidate=grow --factor 2"], ("neither width nor depth",)),
        (["--candidate=width --sperate none"], ("has no field sperate", "did you mean separate?")),
        (["--candidate=width", "--candidate=width"], ("two candidates are called width",)),
        (["--candidate=width --separate none"], ("no candidate is left", "trapped")),
        (["--candidates=split", "--steps=8,4"], ("--steps 8,4", "rise")),
        (["--candidates=split", "--steps=", "--budget=0%"], ("--budget 0%", "more than 0")),
        (["--candidates=split", "--steps=", "--budget=some"], ("--budget some", "as 2%")),
        (["--candidates=split", "--steps=", "--budget=1%"], ("--budget", "at least 16", "--steps")),
        (["--candidates=split", "--train=--lrr 2"], ("has no field lrr", "did you mean lr?")),
        (["--candidates=none.yaml"], ("none.yaml",)),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    small: Path, data: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: tuple[str, ...]
) -> None:
    refused(asked(small, data, *more), capsys, *words)


def test_a_directory_is_of_one_probe(
    planted: tuple[str, Path], small: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(asked(small, data, *PLANTED[2:], f"--work={planted[1]}"), capsys, "is of another probe")


def test_a_budget_is_a_share_of_what_was_spent(small: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number of FLOPs that is the same share gives the same rungs; parameters without embeddings are 12·l·h² and
    what biases and norms add.
    """
    wide, layers, tokens = 12, 2, 40 * 8 * 16
    spent = 6 * (12 * layers * wide**2 + 13 * layers * wide + 2 * wide) * tokens
    share = ["--candidates=split", "--steps=", "--budget=1000%"]
    number = ["--candidates=split", "--steps=", f"--budget={10 * spent}"]
    found = [as_json(asked(small, data, *one), capsys) for one in (share, number)]
    assert found[0] == found[1] and float(str(found[0]["flops"])) <= 10 * spent
