"""Every command, on a terminal and on a machine whose imports are slow, shows at each moment that it works."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptgrow.cli import PROGRAM, app
from ckptgrow.commands._command_tree import tree_of
from tests.commands.test_option_values import commands
from tests.helpers.paths import ROOT

SLOW_IMPORTS = """
import sys, time

class Slow:
    names = {"torch", "transformers", "lightning", "lm_eval", "scipy"}

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            self.names.discard(name)
            time.sleep(2.0)

sys.meta_path.insert(0, Slow())
"""
SILENCE = 1.9  # seconds: below the time that an import takes, above what torch's own keeps all threads waiting
INVISIBLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\s")
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


def silences(words: list[str], directory: Path, slow: Path) -> tuple[int, list[tuple[float, str]]]:
    """The exit code of a command on a terminal, and how long nothing visible came, with what came last before that."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(directory)
        os.environ.update(PYTHONPATH=f"{slow}:{ROOT}", OMP_NUM_THREADS="1")
        os.execv(sys.executable, [sys.executable, "-m", "ckptgrow", *words])
    found, shown, last = [], "", time.monotonic()
    while True:
        if not select.select([terminal], [], [], 300)[0]:
            os.kill(process, signal.SIGKILL)
        try:
            part = os.read(terminal, 65536).decode(errors="ignore")
        except OSError:  # closed at the other end
            part = ""
        if not part or INVISIBLE.sub("", part):
            now = time.monotonic()
            found.append((now - last, shown[-60:]))
            last, shown = now, shown + part
        if not part:
            break
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), [one for one in found if one[0] > SILENCE]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("gpt2-tiny.ckpt", "lambada.jsonl", "wikitext.txt", "curves"):
        (tmp_path / name).symlink_to(FIXTURES / name)
    (tmp_path / "text.txt").write_text("\n\n".join(f"document {one} " * 9 for one in range(60)))
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "plan.json").write_text(PLAN)
    (tmp_path / "recipe.yaml").write_text("operator: width\nfactor: 2\n")
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_IMPORTS)
    return tmp_path


def test_every_command_is_among_the_lines() -> None:
    known = {" ".join(words) for words, _ in commands(tree_of(app, PROGRAM))}
    assert known == {one for one in known if any(f"{line} ".startswith(f"{one} ") for line in LINES)}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("line", LINES)
def test_no_moment_of_a_command_is_without_a_sign(line: str, place: Path) -> None:
    for before in LINES[line]:
        words = [sys.executable, "-m", "ckptgrow", *shlex.split(before)]
        subprocess.run(words, cwd=place, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if line.startswith("experts"):
        (place / "small-dir").symlink_to(place / "trained" / "model")
    code, found = silences(shlex.split(line), place, place / "slow")
    assert code == 0
    assert not found
