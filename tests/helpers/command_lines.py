"""A line of every command, small enough for a test in a directory of its own, and what must have run before it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckptgrow.cli import PROGRAM, app
from ckptgrow.commands._command_tree import tree_of
from ckptgrow.commands._help import PanelledGroup
from tests.helpers.paths import ROOT

FIXTURES = ROOT / "fixtures"
CURVES = "curves/gpt2-base-div2-width.csv curves/gpt2-base.csv"
OFFLINE = "gpt2-tiny.ckpt --tokenizer bytes --data"
TRAINED = (
    "train --data prepared --out trained --config config.json --train-steps 2 --seqlen 16 --batch-size 2 --val-every 1"
)
CONFIG = (
    '{"model_type": "llama", "vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, '
    '"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32}'
)
PLAN = (
    '{"config": "config.json", "train": {"accelerator": "cpu"}, '
    '"stages": [{"steps": 2, "seqlen": 16, "batch_size": 2}, {"operator": "width", "steps": 2}]}'
)
PREPARED = "data text.txt prepared --tokenizer bytes --val-fraction 0.2"
STAGED = "run plan.json --data prepared --out staged"
# commands, and those that must have run before
LINES: dict[str, tuple[str, ...]] = {
    PREPARED: (),
    TRAINED: (PREPARED,),
    "width gpt2-tiny.ckpt wide.ckpt": (),
    "depth gpt2-tiny.ckpt deep.ckpt": (),
    "vocab gpt2-tiny.ckpt vocab.ckpt --size 320": (),
    "positions gpt2-tiny.ckpt long.ckpt --size 160": (),
    "experts small-dir moe-dir --experts 4": (PREPARED, f"{TRAINED} --export"),
    "grow recipe.yaml gpt2-tiny.ckpt grown.ckpt": (),
    "convert gpt2-tiny.ckpt hf --to huggingface": (),
    "verify gpt2-tiny.ckpt wide.ckpt --steps 2": ("width gpt2-tiny.ckpt wide.ckpt",),
    "inspect gpt2-tiny.ckpt": (),
    "generate gpt2-tiny.ckpt --prompt x --tokenizer bytes --num-tokens 4": (),
    f"eval lambada {OFFLINE} lambada.jsonl": (),
    f"eval wikitext {OFFLINE} wikitext.txt": (),
    "eval perplexity gpt2-tiny.ckpt wikitext.txt --tokenizer bytes": (),
    f"eval run {OFFLINE} wikitext=wikitext.txt --tasks wikitext": (),
    f"eval compare gpt2-tiny.ckpt {OFFLINE} wikitext=wikitext.txt --tasks wikitext": (),
    f"plan curves {CURVES} --operator width --params 21233664 84934656 --tokens-per-step 524288": (),
    "plan law --target-params 3.4e8 --stages 3": (),
    f"plan fit {CURVES} --params 21233664 84934656 --tokens-per-step 524288 --from-step 3000": (),
    "plan watch curves/gpt2-base.csv --operator width": (),
    "plan timing curves/gpt2-base.csv --params 1e8 4e8 --tokens-per-step 524288 --train-steps 90000": (),
    "plan show trained --plot curves.png": (PREPARED, TRAINED),
    "families list": (),
    "families check gpt2": (),
    "families new gpt2 gpt2_family.py": (),
    "probe trained --data prepared --steps 2,4 --candidates split --train '--batch-size 2'": (PREPARED, TRAINED),
    STAGED: (PREPARED,),
    "report staged": (PREPARED, STAGED),
    "demo": (),
}


def commands(group: PanelledGroup | None = None, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command's words and itself."""
    for name, command in (tree_of(app, PROGRAM) if group is None else group).commands.items():
        if isinstance(command, PanelledGroup):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


def lay_out(directory: Path) -> None:
    """Puts the files into a directory that the lines of `LINES` begin with."""
    for name in ("gpt2-tiny.ckpt", "lambada.jsonl", "wikitext.txt", "curves"):
        (directory / name).symlink_to(FIXTURES / name)
    (directory / "text.txt").write_text("\n\n".join(f"document {number} " * 9 for number in range(60)))
    (directory / "config.json").write_text(CONFIG)
    (directory / "plan.json").write_text(PLAN)
    (directory / "recipe.yaml").write_text("operator: width\nfactor: 2\n")


def go_before(line: str, directory: Path) -> None:
    """Runs what must have run before one of `LINES`."""
    for before in LINES[line]:
        words = [sys.executable, "-m", "ckptgrow", *shlex.split(before)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(words, cwd=directory, check=True, capture_output=True, env=environment)
    if line.startswith("experts"):
        (directory / "small-dir").symlink_to(directory / "trained" / "model")
