"""What a plan, a recipe or options say wrongly is told in a fraction of a second, before torch is loaded."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import ckptgrow
from ckptgrow.errors import RequestError
from ckptgrow.growth.contradictions import CHECKS
from ckptgrow.growth.growth_options import GROWTH_OPTIONS
from ckptgrow.growth.growths import GROWTHS
from ckptgrow.storage.files.targets import check_directory
from tests.helpers.command_lines import CONFIG

FIXTURE = Path(__file__).parents[2] / "fixtures" / "gpt2-tiny.ckpt"
CPU_SECONDS = 0.5
PLAN = {
    "size": "GPT2_base",
    "stages": [
        {"steps": 10},
        {"operator": "width", "factor": 2, "steps": 10, "recipe": {"spread": 0.5}, "train": {"grad_clip": 1.0}},
    ],
    "train": {"dropout": 0.0},
    "verify": {"batches": 2},
    "evaluate": {"perplexity": ["val"]},
}
WRONG_FIELDS = {
    "stages[1].operator: is 'height', expected": ("stages", 1, "operator", "height"),
    "stages[1].recipe.spread: is 2.5, expected a number, above 0 and at most 1.5": (
        "stages",
        1,
        "recipe",
        "spread",
        2.5,
    ),
    "stages[1].recipe.seed: is -1": ("stages", 1, "recipe", "seed", -1),
    "stages[1].recipe: has no field spreed; did you mean spread": ("stages", 1, "recipe", "spreed", 0.5),
    "stages[1].recipe.how: is 'diagnal'": ("stages", 1, "recipe", "how", "diagnal"),
    "stages[1].train.grad_clip: is -1": ("stages", 1, "train", "grad_clip", -1),
    "stages[1].learning_rate: is -1": ("stages", 1, "learning_rate", -1.0),
    "stages[1].factor: is 1, expected a whole number, at least 2": ("stages", 1, "factor", 1),
    "stages[0].seqlen: is 1": ("stages", 0, "seqlen", 1),
    "stages[0].warmup: is -4": ("stages", 0, "warmup", -4),
    "train.betas: is (0.9, 1.0), expected": ("train", "betas", [0.9, 1.0]),
    "train.adam_beta2: is 2": ("train", "adam_beta2", 2),
    "verify.batches: is 0": ("verify", "batches", 0),
    "evaluate.limit: is -5": ("evaluate", "limit", -5),
    "version: is 2, expected 1": ("version", 2),
}


def with_field(tree: Any, *path: Any) -> Any:
    """The tree with another value at a path; the value stands behind the path."""
    if len(path) == 1:
        return path[0]
    changed = list(tree) if isinstance(tree, list) else dict(tree)
    inner = changed[path[0]] if isinstance(changed, list) or path[0] in changed else {}
    changed[path[0]] = with_field(inner, *path[1:])
    return changed


def refused_lightly(words: Sequence[str | Path], *said: str) -> None:
    """In a process of its own, in little time and without torch."""
    program = (
        f"import sys, time; from ckptgrow.cli import run; code = run({[str(one) for one in words]!r}); "
        "print(time.process_time()); sys.exit(100 if {'torch', 'lightning'} & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and all(one in done.stderr for one in said), done.stderr
    assert float(done.stdout.splitlines()[-1]) < CPU_SECONDS


@pytest.mark.sampled(3)
@pytest.mark.parametrize("said", WRONG_FIELDS)
def test_a_field_that_a_plan_cannot_have_is_told_before_torch_is_loaded(said: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "plan.json").write_text(json.dumps(with_field(PLAN, *WRONG_FIELDS[said])))
    refused_lightly(["run", tmp_path / "plan.json", "--data", tmp_path, "--out", tmp_path / "out"], said)
    assert not (tmp_path / "out").exists()


def test_a_plan_without_data_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    refused_lightly(["run", tmp_path / "plan.json", "--out", tmp_path / "out"], "lacks --data")


CONTRADICTIONS = {
    "--factor 2 and --hidden 8 exclude": "width CKPT OUT --factor 2 --hidden 8",
    "--factor 300: 300 copies of a coordinate, expected at most 256": "width CKPT OUT --factor 300",
    "--size GPT2_base and --resume exclude": "train --data DATA --out OUT --size GPT2_base --resume CKPT",
    "nowhere.json: no such file": "width CKPT OUT --config nowhere.json",
    "copies come whole": "width CKPT OUT --hidden 8",
    "--fresh zero-copy: says how": "width CKPT OUT --fresh zero-copy",
    "--separate none and --noise 0.5 contradict": "width CKPT OUT --separate none --noise 0.5",
    "--spread 0.5: says how": "width CKPT OUT --separate none --spread 0.5 --dry-run",
    "--wd-rule sqrt: --lr-rule keep": "width CKPT OUT --wd-rule sqrt",
    "--factor 2 and --every 3 exclude": "depth CKPT OUT --factor 2 --every 3",
    "--size N or --tokenizer NAME": "vocab CKPT OUT",
    "--lr-rule mup: no old lr": "positions CKPT OUT --size 300 --lr-rule mup",
    "--spread 0.5: is of --separate split": "experts CKPT OUT --experts 4 --separate none --spread 0.5",
    "has no model_type": "train --data DATA --out OUT --config DATA/meta.json",
    "no size of the staged-training script": "train --data DATA --out OUT --size huge",
    "--train --batch 3: has no field batch": "probe CKPT --data DATA --train '--batch 3'",
    "has no field widen": "probe CKPT --data DATA --candidate 'width --widen 2'",
    "--seqlen 1000: expected at most the model's 32": "train --data DATA --out OUT --config LLAMA --seqlen 1000",
    "--seqlen 33: expected at most the model's 32": "train --data DATA --out OUT --resume DATA/hf --seqlen 33",
    "--data x: expected TASK=FILE": "eval compare CKPT CKPT --tasks wikitext --data x",
    "nowhere.txt: no such file": "eval run CKPT --tasks wikitext --data wikitext=nowhere.txt",
    "nowhere.jsonl: no such file": "eval lambada CKPT --data nowhere.jsonl",
    "tasks: no such directory": "eval run CKPT --tasks own --include-path tasks",
    "is an empty directory": "inspect EMPTY",
    "a directory with notes.txt; name": "inspect DATA/notes",
}
UNWRITABLE = (
    "width CKPT OUT",
    "convert CKPT OUT --to huggingface",
    "data INPUT OUT --tokenizer bytes",
    "train --data DATA --out OUT --config LLAMA",
    "run PLAN --data DATA --out OUT",
    "demo --out OUT",
    "probe CKPT --data DATA --work OUT",
    "inspect CKPT --config-out OUT.json",
    "families new gpt2 OUT.py",
    "eval run CKPT --tasks wikitext --samples OUT.jsonl",
)


def words_in(line: str, directory: Path, out: Path) -> list[str]:
    """A line's words, after the files that it names are laid into a directory."""
    for name, content in {
        "meta.json": "{}",
        "text.txt": "text",
        "plan.json": json.dumps(PLAN),
        "llama.json": CONFIG,
        "hf/config.json": CONFIG,
        "hf/model.safetensors": "",
        "notes/notes.txt": "",
        "empty/": "",
    }.items():
        (directory / name).parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            (directory / name).mkdir()
        else:
            (directory / name).write_text(content)
    known = {
        "CKPT": FIXTURE,
        "DATA": directory,
        "OUT": out,
        "INPUT": directory / "text.txt",
        "PLAN": directory / "plan.json",
        "LLAMA": directory / "llama.json",
        "EMPTY": directory / "empty",
    }
    return [re.sub("|".join(known), lambda found: str(known[found[0]]), one) for one in shlex.split(line)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("said", CONTRADICTIONS)
def test_options_that_contradict_each_other_are_told_before_torch_is_loaded(said: str, tmp_path: Path) -> None:
    refused_lightly(words_in(CONTRADICTIONS[said], tmp_path, tmp_path / "out"), said)
    assert not (tmp_path / "out").exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("line", UNWRITABLE)
def test_a_place_that_cannot_be_written_is_told_before_torch_is_loaded(line: str, tmp_path: Path) -> None:
    refused_lightly(words_in(line, tmp_path, tmp_path / "text.txt" / "out"), "text.txt: is a file, expected")


def test_a_directory_without_the_right_to_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for out in (tmp_path, tmp_path / "new" / "newer"):
        with pytest.raises(RequestError, match=f"{tmp_path}: may not be written"):
            check_directory(out)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, "lacks operator"),
        ({"operator": "height"}, "operator: is 'height', expected width or"),
        ({"operator": "width", "factor": 1}, "factor: is 1, expected a whole number, at least 2"),
        ({"operator": "depth", "every": "two"}, "every: is 'two', expected a whole number"),
        ({"operator": "width", "factor": 2, "hidden": 8}, "--factor 2 and --hidden 8 exclude each other"),
    ],
)
def test_a_wrong_recipe_is_told_before_torch_is_loaded(recipe: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    refused_lightly(["grow", tmp_path / "recipe.json", FIXTURE, tmp_path / "out.ckpt"], said)


def test_swapped_checkpoints_are_told_before_torch_is_loaded(tmp_path: Path) -> None:
    grown = tmp_path / "grown.ckpt"
    ckptgrow.width(FIXTURE, grown)
    refused_lightly(
        ["verify", grown, FIXTURE], f"{FIXTURE}: was not grown, and {grown} was", "expected the small checkpoint first"
    )


def test_recipes_know_every_option_of_the_growths_and_no_other() -> None:
    assert GROWTHS.keys() == GROWTH_OPTIONS.keys() == CHECKS.keys()
    of_its_call = {"source", "target", "request", "progress", "return"}
    for operator, grow in GROWTHS.items():
        hints = {name: hint for name, hint in get_type_hints(grow).items() if name not in of_its_call}
        assert get_type_hints(GROWTH_OPTIONS[operator]) == hints
