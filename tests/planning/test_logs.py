"""Every kind of log, read from files that its own writer made, and sizes from configs and checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from ckptgrow.errors import CkptgrowError, DataError, RequestError
from ckptgrow.planning.logs import newest_log, read_log
from ckptgrow.planning.model_size import model_size
from tests.builders import gpt2_config, perturbed_gpt2, trained_checkpoint
from tests.planning.curves_made import write

STEPS = np.arange(10.0, 310.0, 10.0)
LOSSES = 10 / STEPS**0.2


def write_events(path: Path, tag: str = "val_loss", steps: np.ndarray = STEPS) -> Path:
    with SummaryWriter(str(path)) as writer:
        for step, loss in zip(steps, 10 / steps**0.2, strict=True):
            writer.add_scalar(tag, loss, int(step))
            writer.add_scalar("train/lr", 1e-3, int(step))
    return path


@pytest.mark.parametrize("tag", ["val_loss", "eval/loss"])
def test_event_files_of_tensorboards_own_writer_are_read(tmp_path: Path, tag: str) -> None:
    found = read_log(write_events(tmp_path / "run" / "version_0", tag))
    assert found.steps.tolist() == STEPS.tolist() and found.losses == pytest.approx(LOSSES, rel=1e-6)  # float32
    assert read_log(tmp_path / "run").steps.tolist() == STEPS.tolist()  # below
    (file,) = (tmp_path / "run" / "version_0").iterdir()
    assert read_log(file).losses == pytest.approx(LOSSES, rel=1e-6)


def test_a_step_that_was_done_again_counts_once(tmp_path: Path) -> None:
    write_events(tmp_path, steps=STEPS)
    write_events(tmp_path, steps=np.arange(200.0, 410.0, 10.0))
    assert read_log(tmp_path).steps.tolist() == np.arange(10.0, 410.0, 10.0).tolist()


def test_lightnings_metrics_with_rows_of_training_between_are_read(tmp_path: Path) -> None:
    lines = ["epoch,step,train_loss,val_loss"]
    for step, loss in zip(STEPS, LOSSES, strict=True):
        lines += [f"0,{step:.0f},{loss + 1},", f"0,{step:.0f},,{loss}"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    for path in (tmp_path, tmp_path / "metrics.csv"):
        assert read_log(path).losses == pytest.approx(LOSSES)
    assert read_log(tmp_path, "train_loss").losses == pytest.approx(LOSSES + 1)


def test_several_logs_below_are_named_and_the_newest_is_the_live_one(tmp_path: Path) -> None:
    for number, time in ((0, 1_000), (1, 2_000)):
        (tmp_path / f"version_{number}").mkdir()
        log = write(tmp_path / f"version_{number}" / "metrics.csv", STEPS.tolist(), (LOSSES + number).tolist())
        os.utime(log, (time, time))
    with pytest.raises(DataError, match=r"2 logs .*version_0.*version_1"):
        read_log(tmp_path)
    assert newest_log(tmp_path).losses == pytest.approx(LOSSES + 1)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd.csv", STEPS.tolist(), LOSSES.tolist(), "perplexity")
    words = write(tmp_path / "words.csv", STEPS.tolist(), ["x"] * len(STEPS))  # type: ignore[list-item]
    binary = tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(256)))
    (tmp_path / "empty").mkdir()
    for path, loss, match in (
        (odd, None, "Step, Wall time, perplexity, expected Value or val_loss"),
        (odd, "nll", "expected nll"),
        (words, None, "no number"),
        (binary, None, "binary.csv"),
        (tmp_path / "empty", None, "0 logs"),
        (tmp_path / "none.csv", None, "cannot be read"),
        (write_events(tmp_path / "events"), "nll", "train/lr, val_loss, expected nll"),
    ):
        with pytest.raises(DataError, match=match):
            read_log(path, loss)
    assert read_log(odd, "perplexity").losses == pytest.approx(LOSSES)
    with pytest.raises(DataError, match="the directory of a run"):
        newest_log(tmp_path / "empty")


def test_sizes_come_from_configs_and_checkpoints(tmp_path: Path) -> None:
    """Counted by hand: GPT-2 has 12·d² + 13·d in a layer of usual feed-forward size, and 2·d after them."""
    config = gpt2_config(n_inner=None)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**config.to_dict(), "model_type": "gpt2"}))
    expected = 2 * (12 * 12**2 + 13 * 12) + 2 * 12
    assert model_size(str(file)) == expected
    checkpoint = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(n_inner=None))
    assert model_size(str(checkpoint)) == expected
    assert model_size("1.5e6") == 1.5e6


def test_an_untied_heads_parameters_are_not_counted(tmp_path: Path) -> None:
    fields = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes = {**fields, "num_attention_heads": 2, "vocab_size": 32, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    assert model_size(str(tmp_path / "config.json")) == 4 * 8 * 8 + 3 * 8 * 16 + 3 * 8


@pytest.mark.parametrize("value", ["-1", "nan", "nowhere/config.json"])
def test_sizes_that_are_none_are_named(value: str) -> None:
    with pytest.raises(RequestError, match="--params"):
        model_size(value)


def test_a_config_of_no_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CkptgrowError, match="model_type"):
        model_size(str(tmp_path / "config.json"))
