"""A report says what a run's files say, at any moment, in one file that needs nothing else."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ckptgrow.cli import run as run_command
from ckptgrow.report.last_saved import last_saved
from ckptgrow.report.page import page_of
from ckptgrow.report.pictures import pictures_of
from ckptgrow.report.run_record import TrainedCurve, recorded
from ckptgrow.report.saved_compute import SavedCompute, incomparable, saving_of
from ckptgrow.train.run_directory import described
from tests.helpers.commands import as_json, refused
from tests.helpers.staged_runs import STAGES, journal, plan_file, run_here
from tests.helpers.training_runs import losses, rows, tiny_data, train_here

PNG = b"\x89PNG\r\n\x1a\n"
LOOKING_SECONDS = 2.0  # of the CPU; half of that where nothing else runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    first = {**STAGES[0], "steps": 12}
    del first["grow"]
    stages = [first, {"operator": "depth", "steps": 12}]
    run_here(plan_file(directory, stages=stages, evaluate={"perplexity": "val"}), data, directory / "out")
    return directory / "out"


class Addresses(HTMLParser):
    """What a browser would fetch for a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_holds_its_pictures_and_fetches_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(["report", str(out)], capsys)
    page = Path(str(found["page"]))
    assert page == out / "report.html"
    parsed = Addresses()
    text = page.read_text()
    parsed.feed(text)
    assert all(one.startswith("data:") for one in parsed.found) and "<script" not in text and "url(" not in text
    pictures = [base64.b64decode(one.partition(",")[2]) for one in parsed.found if one.startswith("data:image/png")]
    assert len(pictures) == 2 and all(one.startswith(PNG) for one in pictures)
    files = found["pictures"]
    assert isinstance(files, list) and [Path(one).read_bytes() for one in files] == pictures
    validated = losses(out / "stage-2", "val_loss")
    assert f"{validated[max(validated)]:.4f}" in parsed.text
    for words in ("The run is done", "passed", "layers 2 → 4", "ckptgrow depth", "val.bin"):
        assert words in " ".join(parsed.text.split())


def test_curves_lie_at_the_flops_that_were_spent(out: Path) -> None:
    """Six times the parameters without embeddings and the tokens since the stage began, behind those of before."""
    record = recorded(out)
    sizes = [12 * layers * 12**2 + 13 * layers * 12 + 2 * 12 for layers in (2, 4)]
    tokens = [[int(row["tokens"]) for row in rows(out / stage) if row["val_loss"]] for stage in ("stage-1", "stage-2")]
    spent = 6 * sizes[0] * tokens[0][-1]
    expected = [6 * sizes[0] * np.array(tokens[0]), spent + 6 * sizes[1] * (np.array(tokens[1]) - tokens[0][-1])]
    for curve, flops in zip(record.curves, expected, strict=True):
        assert np.array_equal(curve.flops, flops)
    results = {one["job"]: one["result"] for one in journal(out) if one["event"] == "done"}
    assert record.curves[-1].spent == sum(results[f"stage-{number}/train"]["flops"] for number in (1, 2))


def test_a_run_that_is_under_way_is_reported(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = tmp_path / "out"
    shutil.copytree(out, here)
    lines = (here / "journal.jsonl").read_text().splitlines(keepends=True)
    (here / "journal.jsonl").write_text("".join(lines[:5]))
    shutil.rmtree(here / "stage-2")
    assert as_json(["report", str(here)], capsys)["current"] == "stage-1/evaluate"
    assert "Under way" in (here / "report.html").read_text()
    shutil.rmtree(here / "stage-1")
    (here / "journal.jsonl").write_text("".join(lines[:3]))
    assert as_json(["report", str(here)], capsys)["pictures"] == []
    refused(["report", str(tmp_path)], capsys, "holds no run")


LOOKS = (["run", "--status", "OUT"], ["report", "OUT"], ["report", "OUT", "--scratch", "OUT/stage-1"])
LOOKS = (*LOOKS, ["plan", "show", "OUT"], ["plan", "show", "OUT/stage-2", "OUT/stage-1"])


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_who_looks_at_a_run_waits_for_no_model(out: Path, words: list[str]) -> None:
    """In a process of its own, which loads no torch and is done in little time."""
    line = [one.replace("OUT", str(out)) for one in words]
    program = (
        f"import sys, time; from ckptgrow.cli import run; code = run({line!r}); print(time.process_time()); "
        "sys.exit(100 if {'torch', 'lightning', 'transformers'} & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < LOOKING_SECONDS


def test_a_run_that_kept_no_sizes_is_told_in_the_same_words(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of earlier versions, and as a copy with other times."""
    here = tmp_path / "out"
    shutil.copytree(out, here)
    lines = (here / "journal.jsonl").read_text().splitlines(keepends=True)
    (here / "journal.jsonl").write_text("".join(line for line in lines if '"event": "foreseen"' not in line))
    (here / "stage-1" / "last.json").unlink()
    (here / "stage-2" / "checkpoints" / "last.ckpt").touch()
    found, expected = recorded(here), recorded(out)
    assert len(lines) == len((here / "journal.jsonl").read_text().splitlines()) + 1
    for one, other in zip(found.curves, expected.curves, strict=True):
        assert (one.params, one.spent, one.data) == (other.params, other.spent, other.data) and one.data
    assert last_saved(here / "stage-2") == last_saved(out / "stage-2")
    assert described(here / "stage-2") is None and described(out / "stage-2") is not None


def test_a_run_from_scratch_stands_beside_it(
    out: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch = tmp_path / "scratch"
    config = tmp_path / "large.json"
    config.write_text((out / "first-model.json").read_text().replace('"n_layer": 2', '"n_layer": 4'))
    places = [f"--data={data}", f"--out={scratch}", f"--config={config}"]
    train_here([*places, "--batch-size=8", "--train-steps=20", "--val-every=4", "--val-sequences=16"])
    capsys.readouterr()
    assert run_command(["report", str(out), "--scratch", str(scratch)]) == 0
    assert re.search(r"(saved|more than from scratch)", capsys.readouterr().out)
    assert "from scratch" in (out / "report.html").read_text()
    refused(["report", str(out), "--scratch", str(tmp_path)], capsys, "holds no training")


def test_what_cannot_be_compared_is_told_and_no_saving(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another size, other data; a run from scratch that is too short to tell."""
    last = recorded(out).curves[-1]
    known = replace(recorded(out), scratch=replace(last, name="from scratch"))
    assert saving_of(known) is not None and not incomparable(known)
    for change, words in (
        ({"params": last.params + 1}, f"has {last.params + 1:,} parameters without embeddings"),
        ({"data": "f" * 64}, "were trained on different data"),
    ):
        other = replace(known, scratch=replace(last, name="from scratch", **change))
        assert words in incomparable(other) and saving_of(other) is None
        assert words in page_of(other, {})
    short = replace(last, flops=last.flops[:1] / 2, val_losses=last.val_losses[:1] + 1)
    told = saving_of(replace(known, scratch=short))
    assert told is not None and "train it longer" in told.sentence and "%" not in told.sentence
    nothing = replace(last, flops=last.flops[:0], val_losses=last.val_losses[:0])
    unvalidated = replace(known, scratch=nothing)
    assert saving_of(unvalidated) is None and set(pictures_of(unvalidated)) == {"loss", "rates"}


def curve(flops: np.ndarray, val_losses: np.ndarray) -> TrainedCurve:
    nothing = np.array([])
    return TrainedCurve(
        name="x", params=1, flops=flops, val_losses=val_losses, step_flops=nothing, losses=nothing, rates=nothing
    )


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_what_was_saved_is_the_share_of_the_compute_to_the_same_loss(out: Path, noise: float) -> None:
    """Of two power laws, one of which needs 0.75 / 2 of the other's compute; with noise, its interval holds that."""
    flops, longer = np.geomspace(1e9, 1e12, 60), np.geomspace(1e9, 4e12, 72)
    drawn = np.random.default_rng(1)
    staged = curve(0.75 * flops, flops**-0.1 * np.exp(noise * drawn.standard_normal(60)))
    scratch = curve(2 * longer, longer**-0.1 * np.exp(noise * drawn.standard_normal(72)))
    record = replace(recorded(out), curves=(staged,), scratch=scratch)
    found = saving_of(record)
    assert found is not None and found.interval is not None and not found.is_bound
    if noise == 0:
        assert found.share == pytest.approx(1 - 0.75 / 2, abs=1e-9)
    assert found.interval[0] - 1e-9 <= 1 - 0.75 / 2 <= found.interval[1] + 1e-9


@pytest.mark.parametrize(
    ("interval", "said"),
    [((-0.02, 0.3), "no difference seen in compute, 9% saved (90 %"), ((0.02, 0.3), "for the same: 9% saved (90 %")],
)
def test_a_saving_whose_interval_holds_zero_is_no_difference(interval: tuple[float, float], said: str) -> None:
    found = SavedCompute(loss=1.5, staged_flops=1e9, scratch_flops=1.1e9, share=0.09, interval=interval, is_bound=False)
    assert said in found.sentence


def test_a_loss_that_scratch_never_had_gives_a_bound(out: Path) -> None:
    flops = np.geomspace(1e9, 1e12, 60)
    short = curve(flops[:30], flops[:30] ** -0.1)
    record = replace(recorded(out), curves=(curve(0.01 * flops, flops**-0.1),), scratch=short)
    found = saving_of(record)
    assert found is not None and found.is_bound and found.interval is None
    assert found.share == pytest.approx(1 - 0.01 * flops[-1] / flops[29])
    assert "at least" in found.sentence
