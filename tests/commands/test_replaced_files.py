"""What is at an output's place is replaced where an output could have made it; all else is refused, and stays."""

from __future__ import annotations

import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckptgrow.cli import run
from tests.helpers.command_lines import commands
from tests.helpers.commands import refused
from tests.helpers.paths import ROOT

FIXTURE = ROOT / "fixtures" / "gpt2-tiny.ckpt"
CURVES = f"{ROOT / 'fixtures/curves/gpt2-base-div2-width.csv'} {ROOT / 'fixtures/curves/gpt2-base.csv'}"
OF_CURVES = "--params 2e7 8e7 --tokens-per-step 524288"
# every place of a file that a command writes: a line with it, and the endings that it may have
PLACES: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("width", "target"): ("width CKPT OUT --force", (".ckpt",)),
    ("depth", "target"): ("depth CKPT OUT --force", (".ckpt",)),
    ("vocab", "target"): ("vocab CKPT OUT --size 320 --force", (".ckpt",)),
    ("positions", "target"): ("positions CKPT OUT --size 160 --force", (".ckpt",)),
    ("experts", "target"): ("experts CKPT OUT --experts 4 --force", (".ckpt",)),
    ("grow", "target"): ("grow RECIPE CKPT OUT --force", (".ckpt",)),
    ("convert", "target"): ("convert CKPT OUT --to nanogpt --force", (".pt",)),
    ("report", "out"): ("report RUN --out OUT", (".html",)),
    ("families new", "out"): ("families new llama OUT --force", (".py",)),
    ("plan law", "out"): ("plan law --out OUT", (".yaml",)),
    ("plan fit", "out"): (f"plan fit {CURVES} {OF_CURVES} --out OUT", (".yaml", ".json")),
    **{
        (f"eval {name}", "samples"): (f"eval {name} CKPT {rest} --samples OUT --force", (".jsonl",))
        for name, rest in (("lambada", ""), ("wikitext", ""), ("run", "--tasks a"), ("compare", "CKPT --tasks a"))
    },
    ("eval perplexity", "samples"): ("eval perplexity CKPT RECIPE --samples OUT --force", (".jsonl",)),
    **{
        (f"plan {name}", "plot"): (f"plan {name} {rest} --plot OUT", (".png", ".pdf", ".svg"))
        for name, rest in (
            ("curves", f"{CURVES} {OF_CURVES} --operator width"),
            ("law", ""),
            ("fit", f"{CURVES} {OF_CURVES}"),
            ("watch", f"{CURVES.split(maxsplit=1)[0]} --operator width"),
            ("timing", f"{CURVES.split(maxsplit=1)[0]} {OF_CURVES} --train-steps 9000"),
            ("show", f"{CURVES} {OF_CURVES}"),
        )
    },
}
CASES = [(place, ending) for place, (_, endings) in PLACES.items() for ending in endings]
# what people have in their directories
STRANGE: dict[str, bytes] = {
    "a PNG picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "an SVG picture": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>\n',
    "an HTML page": b"<!DOCTYPE html><title>Notes</title>\n",
    "a source file": b"import os\n\nprint(os.getcwd())\n",
    "settings": b"name: mine\nvalues: [1, 2]\n",
    "JSON": b'{"name": "mine"}\n',
    "a letter": b"Dear all,\n",
}
OWN = {".png": "a PNG picture", ".pdf": "a PDF", ".svg": "an SVG picture", ".html": "an HTML page"}


def line_of(place: tuple[str, str], out: Path) -> list[str]:
    recipe, staged = out.parent / "recipe.json", out.parent / "staged"
    recipe.write_text('{"operator": "width", "factor": 2}')
    staged.mkdir(exist_ok=True)
    (staged / "journal.jsonl").touch()
    known = {"CKPT": FIXTURE, "OUT": out, "RECIPE": recipe, "RUN": staged}
    return [str(known.get(word, word)) for word in shlex.split(PLACES[place][0])]


def test_every_file_that_a_command_writes_is_among_the_places() -> None:
    written = [
        (" ".join(words), str(one.name))
        for words, command in commands()
        for one in command.params
        if "Path" in str(one.type_descriptor.annotation) and one.name in ("target", "samples", "plot", "out")
    ]
    directories = {("data", "out"), ("train", "out"), ("run", "out"), ("demo", "out")}
    assert {*PLACES} == {*written} - directories


@pytest.mark.parametrize(("place", "ending"), CASES, ids=[" ".join((*place, ending)) for place, ending in CASES])
def test_a_file_of_another_kind_is_not_replaced(
    place: tuple[str, str], ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"mine{ending}"
    for name, held in STRANGE.items():
        if name != OWN.get(ending):
            out.write_bytes(held)
            refused(line_of(place, out), capsys, f"{out}: holds something else than", "choose another name")
            assert out.read_bytes() == held


@pytest.mark.parametrize(("place", "ending"), CASES, ids=[" ".join((*place, ending)) for place, ending in CASES])
def test_a_name_that_says_another_kind_is_refused(
    place: tuple[str, str], ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in (".txt", ".doc", ".mp4"):
        refused(line_of(place, tmp_path / f"mine{other}"), capsys, f"mine{other}: ", "expected a name")
    assert not (tmp_path / "mine.txt").exists()


def test_all_that_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    lines = [line_of(place, tmp_path / "mine.txt") for place in PLACES]
    program = (
        f"import sys\nfrom ckptgrow.cli import run\nfor words in {lines!r}:\n    assert run(words) == 2, words\n"
        "    assert not {'torch', 'transformers', 'lightning', 'scipy'} & set(sys.modules), words\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def saved(path: Path) -> None:
    torch.save({"mine": torch.zeros(2)}, path)


def saved_by_old_versions(path: Path) -> None:
    torch.save({"mine": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def cut_short(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize("make", [saved, saved_by_old_versions, cut_short, Path.touch])
def test_what_a_trainer_could_have_written_is_replaced(make: Callable[[Path], None], tmp_path: Path) -> None:
    out = tmp_path / "out.ckpt"
    make(out)
    assert run(["width", str(FIXTURE), str(out), "--force"]) == 0
    assert run(["verify", str(FIXTURE), str(out)]) == 0


def test_another_zip_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "letters.ckpt"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("letter.txt", "Dear all,")
    refused(["width", str(FIXTURE), str(out), "--force"], capsys, "something else than a file of torch.save")


@pytest.mark.parametrize("inside", ["letter.txt", ".git/HEAD", "src/main.py"])
def test_a_directory_of_another_kind_is_not_replaced(
    inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    (out / inside).parent.mkdir(parents=True)
    (out / inside).write_text("mine")
    refused(["convert", str(FIXTURE), str(out), "--to", "huggingface", "--force"], capsys, f"{out}: is a ")
    assert (out / inside).read_text() == "mine"


@pytest.mark.parametrize("name", ["gpt2-1.5b", "wide.2-heads", "wide"])
def test_a_name_with_a_dot_that_begins_no_ending_is_taken(name: str, tmp_path: Path) -> None:
    assert run(["width", str(FIXTURE), str(tmp_path / name), "--dry-run"]) == 0


def test_training_data_of_others_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("text\n" * 99)
    data = tmp_path / "nanogpt"
    data.mkdir()
    (data / "train.bin").write_bytes(b"mine")
    words = ["data", str(tmp_path / "text.txt"), str(data), "--tokenizer", "bytes"]
    refused([*words, "--force"], capsys, "holds train.bin", "choose another directory")
    assert (data / "train.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["data/letter.txt", "run/main.py", "scratch/notes", "report/letter.pdf", "plan.json"])
def test_a_demo_replaces_a_demo_alone(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    refused(
        ["demo", "--out", str(tmp_path), "--force"],
        capsys,
        "choose another",
        str(tmp_path / name.split("/", maxsplit=1)[0]),
    )
    assert (tmp_path / name).read_text() == "mine"
