"""A stage whose recipe a probe chooses: the journal keeps the choice; an interrupted run ends with the same bits."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptgrow.cli import run as run_command
from ckptgrow.probe import probing
from ckptgrow.run.staged_run import jobs_of
from ckptgrow.run.standing import opened_run
from tests.helpers.commands import as_json, refused
from tests.helpers.staged_runs import STAGES, assert_equal, journal, plan_file, run_here, state_of, words
from tests.helpers.training_runs import losses, tiny_data

RISING = "width --separate none --how tile --reset new --rewarm-new 1.5,6"
PROBE: dict[str, Any] = {"candidates": ["width --separate none", RISING], "steps": [2, 4], "sequences": 8}
FIRST = {**{name: value for name, value in STAGES[0].items() if name != "grow"}, "steps": 12}
PROBED = {"operator": "width", "recipe": "probe", "probe": PROBE, "steps": 8, "rewarm": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted; its plan lies beside it, and what it said."""
    directory = tmp_path_factory.mktemp("whole")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run_here(plan_file(directory, stages=[FIRST, PROBED]), data, directory / "out")
    (directory / "said.txt").write_text(said.getvalue())
    return directory / "out"


def test_the_winner_is_grown_and_trained_as_it_was_probed(whole: Path) -> None:
    """The stage's first steps are the arm's, and what the planted trap would have made is not there."""
    found = {one["job"]: one["result"] for one in journal(whole) if one["event"] == "done"}
    assert found["stage-2/probe"]["winner"] == RISING and not (whole / "stage-2-probe").exists()
    assert found["stage-2/probe"]["recipe"]["growth"]["rewarm"] == 2
    tree = torch.load(whole / "stage-2" / "checkpoints" / "last.ckpt", weights_only=True)
    assert tree["ckptgrow"]["history"][-1]["reset"] == ["new"] and tree["ckptgrow"]["rewarm_new"]["peak"] == 1.5
    assert tree["ckptgrow"]["rewarm_new"]["done"] == 8


def test_the_report_shows_every_candidate_and_control_with_its_figures(whole: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert run_command(["report", str(whole), "--out", str(page)]) == 0
    text = page.read_text()
    table = text[text.index("The probe that chose the recipe of stage-2: 4 steps") :].partition("</table>")[0]
    done = {one["job"]: one["result"] for one in journal(whole) if one["event"] == "done"}
    found = done["stage-2/probe"]
    entries = [*found["candidates"], *found["controls"]]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
    assert [row[0] for row in rows] == [one["name"] for one in entries]
    assert [row[1] for row in rows] == ["–" if one["loss"] is None else f"{one['loss']:.4f}" for one in entries]
    verdicts = {row[0]: row[-1] for row in rows}
    assert verdicts[RISING] == "best" and "control, " in rows[-1][-1]
    trapped = next(one for one in found["candidates"] if one["name"] != RISING)
    assert verdicts[trapped["name"]] == (trapped["out"] or "behind")


def test_its_commands_by_hand_are_those_of_the_choice(whole: Path, tmp_path: Path) -> None:
    work, here = opened_run(whole), tmp_path / "by-hand"
    here.mkdir()
    shutil.copy(whole / "first-model.json", here)
    for job in jobs_of(work.plan):
        for line in job.words(work):
            typed = shlex.split(shlex.join(line).replace(str(whole), str(here)))
            assert run_command(typed[1:]) == 0, typed
    for stage in ("stage-1", "stage-2"):
        states = [state_of(one / stage / "checkpoints" / "last.ckpt") for one in (here, whole)]
        assert_equal(*states, where=stage)


def test_what_the_probe_changes_in_the_commands_is_said_beside_what_was_planned(
    whole: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_file(tmp_path, stages=[FIRST, PROBED])
    dry = as_json([*words(plan, data, whole.with_name("elsewhere")), "--dry-run", "--measure=0"], capsys)["commands"]
    work = opened_run(whole)
    done = [shlex.join(line) for job in jobs_of(work.plan) for line in job.words(work)]
    assert isinstance(dry, list)
    planned = [str(one).replace(str(whole.with_name("elsewhere")), str(whole)) for one in dry]
    changed = [pair for pair in zip(planned, done, strict=True) if pair[0] != pair[1]]
    assert changed and "--separate none" in changed[0][1]
    said = (whole.parent / "said.txt").read_text().replace("\n", " ")
    for before, now in changed:
        assert f"planned as {before}; by the probe {now}" in said


@pytest.mark.sampled(1)
@pytest.mark.parametrize("after", [1, 4])
def test_a_probe_that_is_ended_inside_a_run_chooses_the_same(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    heard: list[str] = []

    def hear(self: Any, task: Any, trace: Any) -> None:
        heard.append(task.arm.name)
        if len(heard) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(probing._Probe, "_heard", hear)
        assert run_command(words(whole.parent / "plan.json", data, tmp_path / "out")) == 130
    run_here(whole.parent / "plan.json", data, tmp_path / "out")
    results = [
        [one["result"] for one in journal(out) if one.get("job") == "stage-2/probe" and one["event"] == "done"]
        for out in (whole, tmp_path / "out")
    ]
    results[1][0]["commands"] = results[0][0]["commands"]  # of other places
    assert results[0] == results[1]
    states = [state_of(out / "stage-2" / "checkpoints" / "last.ckpt") for out in (whole, tmp_path / "out")]
    assert_equal(*states)


def test_a_stage_that_goes_on_does_not_begin_its_rise_again(whole: Path, data: Path, tmp_path: Path) -> None:
    """New entries' own rates rise once, however often the stage's training is started."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    end = next(n for n, line in enumerate(lines) if '"stage-2/train"' in line)
    (out / "journal.jsonl").write_text("".join(lines[:end]))
    kept = out / "stage-2" / "checkpoints"
    middle = next(one for one in kept.glob("step-*.ckpt") if one.name != f"step-{max(losses(out / 'stage-2'))}.ckpt")
    shutil.copy(middle, kept / "last.ckpt")
    run_here(whole.parent / "plan.json", data, out)
    states = [state_of(one / "stage-2" / "checkpoints" / "last.ckpt") for one in (whole, out)]
    assert_equal(*states)


def test_a_dry_run_counts_the_probe(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two candidates to the second step, one to the fourth, two controls all the way; four steps of as many tokens."""
    stages = [{**FIRST, "steps": 20}, PROBED]
    found = [
        as_json([*words(plan_file(tmp_path, stages=one), data, tmp_path / "out"), "--dry-run", "--measure=0"], capsys)
        for one in (stages, [stages[0], {"operator": "width", "steps": 8, "rewarm": 2}])
    ]
    wide = 12 * 2 * 24**2 + 13 * 2 * 24 + 2 * 24
    assert float(str(found[0]["flops"])) - float(str(found[1]["flops"])) == 6 * wide * 8 * 16 * (4 * 2 + 3 * 2)
    assert any(str(one).startswith("ckptgrow probe ") for one in list(found[0]["commands"]))  # pyright: ignore
    line = [*words(plan_file(tmp_path, stages=stages), data, tmp_path / "out"), "--dry-run", "--measure=2"]
    capsys.readouterr()
    assert run_command(line) == 0
    rows = [one.split("\t") for one in capsys.readouterr().out.splitlines() if one.startswith("stage-2")]
    assert [row[0] for row in rows[:2]] == ["stage-2/probe", "stage-2"]
    assert float(rows[0][6]) == pytest.approx(6 * wide * 8 * 16 * (4 * 2 + 3 * 2), rel=1e-2) and rows[0][7] != "–"


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ({**PROBED, "operator": "both"}, "a probe chooses for one operator"),
        ({**PROBED, "recipe": "prob"}, "expected fields and values or probe"),
        ({**PROBED, "probe": {"candidates": ["split", "splitt"]}}, "splitt"),
        ({**PROBED, "probe": {"stepss": [1]}}, "did you mean steps?"),
        ({**PROBED, "probe": {"budget": "much"}}, "as 2%"),
        ({**PROBED, "probe": {"budget": "0.1%", "candidates": ["split", "noise"]}}, "pay 0 steps of 2 candidates"),
        ({**PROBED, "probe": {"steps": [4, 2]}}, "steps that rise"),
    ],
)
def test_what_a_probe_cannot_be_is_told_before_anything_runs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: dict[str, Any], expected: str
) -> None:
    refused(words(plan_file(tmp_path, stages=[FIRST, stage]), data, tmp_path / "out"), capsys, expected)
    assert not (tmp_path / "out").exists()
