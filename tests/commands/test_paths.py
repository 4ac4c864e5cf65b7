"""What a path of the command line means: the checkpoint near it, or one line that says what to give instead."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptgrow.cli import run
from tests.helpers.commands import refused

FIXTURE = Path(__file__).parents[2] / "fixtures" / "gpt2-tiny.ckpt"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory."""
    target = tmp_path_factory.mktemp("hub") / "model"
    assert run(["convert", str(FIXTURE), str(target), "--to", "huggingface"]) == 0
    return target


def inspected(path: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], list[str]]:
    capsys.readouterr()
    assert run(["inspect", str(path), "--json"]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), [line for line in shown.err.splitlines() if line.startswith("note:")]


def test_the_directory_of_a_run_means_its_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "run" / "checkpoints"
    kept.mkdir(parents=True)
    shutil.copy(FIXTURE, kept / "last.ckpt")
    (kept / "step=10.ckpt").write_bytes(b"not looked at")
    found, remark = inspected(tmp_path / "run", capsys)
    assert found["global_step"] == inspected(FIXTURE, capsys)[0]["global_step"]
    assert remark == [f"note: {tmp_path / 'run'}: taken for {kept / 'last.ckpt'}"]


def test_a_run_that_names_no_last_checkpoint_is_asked_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "run" / "checkpoints"
    kept.mkdir(parents=True)
    shutil.copy(FIXTURE, kept / "epoch=0.ckpt")
    assert inspected(tmp_path / "run", capsys)[0]["kind"] == "lightning"
    shutil.copy(FIXTURE, kept / "epoch=1.ckpt")
    refused(["inspect", str(tmp_path / "run")], capsys, "epoch=0.ckpt", "epoch=1.ckpt", "name one")


def test_the_output_directory_of_a_trainer_means_its_latest_checkpoint(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 5, 100):  # by number, not by name
        shutil.copytree(model, tmp_path / f"checkpoint-{step}")
    assert inspected(tmp_path, capsys)[1] == [f"note: {tmp_path}: taken for {tmp_path / 'checkpoint-100'}"]


def test_a_model_beside_checkpoints_is_the_model(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "out")
    shutil.copytree(model, tmp_path / "out" / "checkpoint-5")
    assert inspected(tmp_path / "out", capsys)[1] == []


def test_a_file_of_weights_means_the_directory_around_it(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = model / "model.safetensors"
    assert inspected(weights, capsys)[1] == [f"note: {weights}: taken for {model}"]
    shutil.copy(model / "model.safetensors", tmp_path)
    refused(["inspect", str(tmp_path / "model.safetensors")], capsys, "config.json")


def test_the_home_directory_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(FIXTURE, tmp_path / "small.ckpt")
    assert inspected("~/small.ckpt", capsys)[0]["kind"] == "lightning"
    assert run(["width", "~/small.ckpt", "~/grown.ckpt"]) == 0
    assert (tmp_path / "grown.ckpt").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gpt2", "neither a file or directory nor a model in the hub's cache"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m: is neither a file"),
        ("https://example.org/small.ckpt", "https://example.org/small.ckpt: is a page"),
        ("nope://bucket/small.ckpt", "nothing here reads nope://"),
        ("small.ckpt", "no such file or directory"),
    ],
)
def test_what_is_not_on_this_machine_is_told_apart(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["inspect", given], capsys, said)


@pytest.mark.parametrize(
    ("is_directory", "name"),
    [(False, "out.safetensors"), (False, "out.json"), (True, "out.ckpt"), (True, "out.pt"), (True, "out.safetensors")],
)
def test_an_output_whose_name_says_another_kind_is_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], is_directory: bool, name: str
) -> None:
    source = model if is_directory else FIXTURE
    refused(["width", str(source), str(tmp_path / name)], capsys, name, "another kind")
    assert not any(tmp_path.iterdir())


def test_a_conversion_is_refused_where_the_name_says_another_kind_than_its_own(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["convert", str(model), str(tmp_path / "a.safetensors"), "--to", "lightning"], capsys, "another kind")
    refused(["convert", str(FIXTURE), str(tmp_path / "a.ckpt"), "--to", "huggingface"], capsys, "another kind")
    assert run(["convert", str(FIXTURE), str(tmp_path / "a.ckpt"), "--to", "dcp"]) == 0  # as Lightning names them


def test_a_page_is_no_place_to_write_to(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["width", str(FIXTURE), "https://example.org/grown.ckpt"], capsys, "can be read alone")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["inspect", "nothing-there.ckpt"], "nothing-there.ckpt"),
        (["width", str(FIXTURE), "out.ckpt", "--noise", "high"], "--noise high"),
        (["width", str(FIXTURE), "out.ckpt", "--how", "diagnal"], "--how diagnal"),
        (["inspect", str(FIXTURE), "--nope"], "--nope"),
        (["inspect"], None),
    ],
)
def test_errors_are_json_where_json_is_asked_for(
    arguments: list[str], where: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--json"]) == 2
    shown = capsys.readouterr()
    error = json.loads(shown.out)
    assert shown.err == f"ckptgrow: {error['error']}\n"
    assert error.keys() == {"error", "where"}
    assert error["where"] == where
    assert where is None or where.split()[0] in error["error"]


@pytest.mark.parametrize(
    "line",
    [
        *("width NONE out.ckpt", "depth NONE out.ckpt", "vocab NONE out --size 300", "experts NONE out --experts 4"),
        *("positions NONE out --size 300", "convert NONE out --to dcp", "verify NONE NONE", "inspect NONE"),
        *(
            "grow NONE.yaml a b",
            "train --data NONE --out x --size GPT2_base",
            "train --data DATA --out x --config NONE",
        ),
        *("train --data DATA:0.5,NONE:0.5 --out x --size GPT2_base", "train --data DATA --out x --resume NONE"),
        *(
            "probe NONE --data DATA",
            "probe CKPT --data NONE",
            "generate NONE --prompt x",
            "data NONE out --tokenizer bytes",
        ),
        *("run NONE --data DATA --out x", "run CKPT --data NONE --out x", "run --status NONE", "report NONE"),
        *("eval perplexity NONE CKPT", "eval perplexity CKPT NONE", "eval run NONE --tasks a", "plan show NONE"),
    ],
)
def test_a_wrong_path_is_told_before_torch_is_imported(line: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").touch()
    known = {"DATA": tmp_path.as_posix(), "CKPT": FIXTURE.as_posix()}
    words = [
        re.sub("DATA|CKPT", lambda found: known[found[0]], word).replace("NONE", "nothing-there")
        for word in line.split()
    ]
    program = (
        f"import sys; from ckptgrow.cli import run; code = run({words!r}); "
        "sys.exit(100 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 2 and "nothing-there" in done.stderr, done.stderr


def test_prepared_data_in_a_checkpoints_place_are_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("val.bin", "meta.json"):
        (tmp_path / name).write_bytes(b"{}")
    refused(["eval", "perplexity", str(tmp_path / "val.bin"), "small.ckpt"], capsys, "is prepared data", "first")


def test_an_address_is_shown_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["inspect", "hf://owner/name@v1"], capsys, "ckptgrow: hf://owner/name@v1: is neither")


def test_the_directory_of_a_staged_run_means_what_it_saved_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "journal.jsonl").write_text("{}\n")
    refused(["inspect", str(tmp_path)], capsys, "has saved nothing yet")
    shutil.copy(FIXTURE, tmp_path / "stage-2.ckpt")  # grown, and not trained yet
    for number, time in ((2, 2_000), (1, 1_000)):
        saved = tmp_path / f"stage-{number}" / "checkpoints" / "last.ckpt"
        saved.parent.mkdir(parents=True)
        shutil.copy(FIXTURE, saved)
        os.utime(saved, (time, time))
    meant = tmp_path / "stage-2" / "checkpoints" / "last.ckpt"
    assert inspected(tmp_path, capsys)[1] == [f"note: {tmp_path}: taken for {meant}"]


def test_a_directory_of_several_checkpoints_is_refused_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one.ckpt", "two.ckpt"):
        shutil.copy(FIXTURE, tmp_path / name)
    refused(["inspect", str(tmp_path)], capsys, "holds 2 checkpoints, expected one; name one of one.ckpt, two.ckpt")


@pytest.mark.parametrize(
    ("there", "line", "told"),
    [
        (("metrics.csv", "checkpoints"), "data a.txt OUT --tokenizer bytes", "holds a training, expected"),
        (("journal.jsonl",), "data a.txt OUT --tokenizer bytes", "holds a staged run, expected"),
        (("journal.jsonl",), "train --data DATA --out OUT --size GPT2_base", "holds a staged run, expected"),
        (("meta.json", "train.bin"), "train --data DATA --out OUT --size GPT2_base", "holds prepared data, expected"),
        (("meta.json", "train.bin"), "run PLAN --data DATA --out OUT", "holds prepared data, expected"),
        (("metrics.csv", "checkpoints"), "run PLAN --data DATA --out OUT", "holds a training, expected"),
    ],
)
def test_outputs_of_two_kinds_do_not_share_a_directory(
    there: tuple[str, ...], line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for directory, names in ((data, ("meta.json",)), (out, there), (tmp_path, ("a.txt", "plan.yaml"))):
        directory.mkdir(exist_ok=True)
        for name in names:
            (directory / name).touch()
    known = {"DATA": data, "OUT": out, "PLAN": tmp_path / "plan.yaml", "a.txt": tmp_path / "a.txt"}
    refused([str(known.get(word, word)) for word in line.split()], capsys, told)
    assert sorted(one.name for one in out.iterdir()) == sorted(there)
