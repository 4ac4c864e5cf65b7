"""Outside of a git repository, commands say what they have to say and no library adds a word, on either stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from tests.helpers.commands import said
from tests.helpers.evaluated import GPT2, LAMBADA, WIKITEXT, byte_model, word_tokenizer
from tests.helpers.lightning_files import save_lightning
from tests.helpers.paths import ROOT

LINES = [f"document {number} on the quick brown fox" for number in range(40)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory outside of all repositories, with a checkpoint, prepared data and a tokenizer beside it."""
    directory = tmp_path_factory.mktemp("home")
    model: PreTrainedModel = byte_model("gpt2")
    save_lightning(directory / "small.ckpt", model)
    (directory / "config.json").write_text(json.dumps(GPT2.to_dict()))
    (directory / "a.txt").write_text("\n".join(LINES))
    for name, share in (("noval", "0"), ("val", "0.5")):
        told = stderr_of(directory, ["data", "a.txt", name, "--tokenizer", "bytes", "--val-fraction", share])
        assert told == []
    return directory


def stderr_of(directory: Path, arguments: Sequence[str]) -> list[str]:
    """The lines on stderr of a process of its own: git, C libraries and fork write past Python's streams."""
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DISABLE_MULTIPROC": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | settings
    done = subprocess.run(
        [sys.executable, "-m", "ckptgrow", *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return said(done.stderr)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "arguments",
    [
        ["lambada", "small.ckpt", "--data", str(LAMBADA), "--tokenizer", "bytes", "--limit", "3"],
        *(
            pytest.param(line, marks=pytest.mark.slow)
            for line in (
                ["wikitext", "small.ckpt", "--data", str(WIKITEXT), "--tokenizer", "bytes", "--limit", "1"],
                ["wikitext", "small.ckpt", "--measure", "original", "--data", str(WIKITEXT), "--tokenizer", "bytes"],
                ["perplexity", "small.ckpt", "val/val.bin"],
            )
        ),
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_evaluation_says_one_line_of_its_own_on_stderr(home: Path, arguments: list[str]) -> None:
    (told,) = stderr_of(home, ["eval", *arguments])
    assert told.startswith("small.ckpt: ") and told.endswith("float32 on cpu")


@pytest.mark.slow
def test_pages_longer_than_a_tokenizer_likes_are_no_reason_to_speak(home: Path, tmp_path: Path) -> None:
    words = word_tokenizer(tmp_path / "words")
    settings = json.loads((words / "tokenizer_config.json").read_text())
    (words / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 16}))
    model_config = {**GPT2.to_dict(), "vocab_size": 1200}
    (tmp_path / "config.json").write_text(json.dumps(model_config))
    trained = ["--config", "config.json", "--seqlen", "16", "--batch-size", "1", "--train-steps", "1"]
    assert stderr_of(tmp_path, ["data", str(WIKITEXT), "data", "--tokenizer", "words"]) == []
    stderr_of(tmp_path, ["train", "--data", "data", "--out", "run", *trained])
    told = stderr_of(
        tmp_path, ["eval", "wikitext", "run/checkpoints/last.ckpt", "--data", str(WIKITEXT), "--tokenizer", "words"]
    )
    assert len(told) == 1 and told[0].startswith("run/checkpoints/last.ckpt: ")


@pytest.mark.slow
@pytest.mark.parametrize("data", ["noval", pytest.param("val", marks=pytest.mark.slow)])
def test_training_is_as_quiet_with_validation_data_as_without(home: Path, data: str) -> None:
    common = ["--config", "config.json", "--seqlen", "16", "--batch-size", "2", "--train-steps", "3"]
    told = stderr_of(home, ["train", "--data", data, "--out", f"run-{data}", *common, "--val-every", "2"])
    libraries = ("site-packages", "Warning", "fatal", "lightning", "torch.", "INFO", "it/s")
    assert not [line for line in told if any(one in line for one in libraries)]
