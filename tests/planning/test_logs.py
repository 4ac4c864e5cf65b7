"""Every kind of log, read from files that its own writer made, and sizes from configs and checkpoints."""

from __future__ import annotations

import csv
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from ckptgrow.errors import CkptgrowError, DataError, RequestError
from ckptgrow.planning.logs import Names, newest_log, read_log
from ckptgrow.planning.model_size import model_size
from ckptgrow.train.training_run import train
from tests.helpers.curves import write
from tests.helpers.families import COMMON
from tests.helpers.gpt2 import gpt2_config, perturbed_gpt2
from tests.helpers.lightning_files import trained_checkpoint
from tests.helpers.training_runs import tiny_data

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


RUN = tuple[list[float], float]  # steps of one start of a run, and a number by which its losses are told apart


def survivors(runs: list[RUN]) -> dict[float, float]:
    """The history as a person would write it: each start wipes what the others have from its first step on."""
    history: dict[float, float] = {}
    for steps, losses in runs:
        history = {step: loss for step, loss in history.items() if step < steps[0]}
        history |= dict.fromkeys(steps, losses)
    return history


def restarts(seed: int) -> list[RUN]:
    """Up to four starts, each from somewhere in the one before, on a grid of its own."""
    draw = random.Random(seed)
    runs: list[RUN] = []
    for number in range(draw.randint(2, 4)):
        first = 10.0 if not runs else draw.uniform(10, runs[-1][0][-1])
        every = draw.choice([10, 10, 7, 25])
        runs.append(([round(first) + every * index for index in range(draw.randint(8, 40))], 2.0 + number))
    return runs


@pytest.mark.parametrize("seed", range(12))
def test_of_a_restarted_run_the_later_rows_count_on_any_grid_in_every_kind_of_log(tmp_path: Path, seed: int) -> None:
    runs = restarts(seed)
    rows = [(step, loss) for steps, loss in runs for step in steps]
    (tmp_path / "log.csv").write_text("step,val_loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows))
    for number, (steps, loss) in enumerate(runs):
        with SummaryWriter(str(tmp_path / "events"), filename_suffix=f".{number}") as writer:
            (file,) = (one for one in (tmp_path / "events").iterdir() if one.name.endswith(f".{number}"))
            for step in steps:
                writer.add_scalar("val_loss", loss, int(step))
        file.rename(file.with_name(f"events.out.tfevents.{1_700_000_000 + number}.host"))  # started a second apart
    for path in (tmp_path / "log.csv", tmp_path / "events"):
        found = read_log(path)
        assert dict(zip(found.steps.tolist(), found.losses.tolist(), strict=True)) == survivors(runs)
        assert found.replaced == len(rows) - len(survivors(runs))


def test_a_restart_that_told_its_first_step_to_tensorboard_is_the_same(tmp_path: Path) -> None:
    write_events(tmp_path)
    with SummaryWriter(str(tmp_path), purge_step=200, filename_suffix=".z") as writer:
        for step in range(205, 400, 10):
            writer.add_scalar("val_loss", 1.0, step)
    found = read_log(tmp_path)
    assert found.steps.tolist() == [*range(10, 200, 10), *range(205, 400, 10)]


def test_rows_in_no_order_are_no_restarts(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(STEPS))
    for name, index in (("mixed", order), ("falling", np.arange(len(STEPS))[::-1])):
        with pytest.raises(DataError, match="expected increasing steps"):
            read_log(write(tmp_path / f"{name}.csv", STEPS[index].tolist(), LOSSES[index].tolist()))


HEADERS = ("step,val_loss", "val_loss,step", "step,val_loss,lr")


@pytest.mark.parametrize("header", HEADERS)
def test_a_log_cut_at_any_byte_of_its_last_row_never_gives_a_number_that_was_not_written(
    tmp_path: Path, header: str
) -> None:
    """At most the last row is missing, and what is there is as it was written."""
    steps, losses = [1000 + 500 * one for one in range(12)], [3.7512345 - 0.0512345 * one for one in range(12)]
    cells = [
        {"step": f"{step}", "val_loss": f"{loss:.7f}", "lr": "0.001"} for step, loss in zip(steps, losses, strict=True)
    ]
    text = "\n".join([header, *(",".join(row[name] for name in header.split(",")) for row in cells)]) + "\n"
    begin = text.rstrip().rindex("\n") + 1
    for end in range(begin, len(text) + 1):
        log = tmp_path / "log.csv"
        log.write_text(text[:end])
        found = read_log(log)
        assert found.steps.tolist() == steps[: len(found.steps)] and len(found.steps) >= 11
        assert found.losses == pytest.approx(losses[: len(found.steps)], rel=1e-9)
        if not text[:end].endswith((",", "\n")):  # an empty cell may be what was meant
            assert found.cut == 12 - len(found.steps)
    assert len(found.steps) == 12
    log.write_bytes(text.encode() + bytes(100))  # a file system's empty block
    assert read_log(log).steps.tolist() == steps


def test_a_row_that_a_restart_wrote_behind_a_cut_one_is_left_out(tmp_path: Path) -> None:
    rows = [f"{step:.0f},{loss:.4f}\n" for step, loss in zip(STEPS, LOSSES, strict=True)]
    (tmp_path / "log.csv").write_text("step,val_loss\n" + "".join(rows) + "310,3.1" + "250,3.3\n260,3.2\n")
    found = read_log(tmp_path / "log.csv")
    assert found.steps.tolist() == [*range(10, 260, 10), 260.0] and found.losses[-1] == 3.2 and found.cut == 1


def exported(path: Path, columns: dict[str, list[float]]) -> Path:
    """A CSV as Weights & Biases writes it: quoted, behind a byte order mark where a spreadsheet saved it."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.mark.parametrize("step", ["trainer/global_step", "train/global_step", "Step", "_step"])
def test_exports_of_weights_and_biases_are_read(tmp_path: Path, step: str) -> None:
    name = "earnest-sea-4 - val_loss"
    columns = {step: STEPS.tolist(), name: LOSSES.tolist(), f"{name}__MIN": LOSSES.tolist()}
    log = exported(tmp_path / "log.csv", columns)
    for names in (Names(), Names(loss=name), Names(loss="val_loss"), Names(step=step)):
        found = read_log(log, names)
        assert found.steps.tolist() == STEPS.tolist() and found.losses == pytest.approx(LOSSES)


def test_optimizer_steps_come_before_a_loggers_calls_and_any_column_can_be_named(tmp_path: Path) -> None:
    calls = (3 * STEPS).tolist()
    columns = {"_step": calls, "trainer/global_step": STEPS.tolist(), "it": (STEPS + 1).tolist()}
    log = exported(tmp_path / "log.csv", {**columns, "val_loss": LOSSES.tolist()})
    assert read_log(log).steps.tolist() == STEPS.tolist()
    assert read_log(log, Names(step="it")).steps.tolist() == (STEPS + 1).tolist()
    with pytest.raises(DataError, match="expected iteration as a step"):
        read_log(log, Names(step="iteration"))
    two = exported(tmp_path / "two.csv", {"Step": calls, "a - val_loss": calls, "b - val_loss": calls})
    with pytest.raises(DataError, match=r"a - val_loss, b - val_loss, expected .* name it with loss"):
        read_log(two)
    with pytest.raises(DataError, match="name it with step_column"):
        read_log(exported(tmp_path / "none.csv", {"it": calls, "val_loss": calls}))


def test_lightnings_metrics_with_rows_of_training_between_are_read(tmp_path: Path) -> None:
    lines = ["epoch,step,train_loss,val_loss"]
    for step, loss in zip(STEPS, LOSSES, strict=True):
        lines += [f"0,{step:.0f},{loss + 1},", f"0,{step:.0f},,{loss}"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    for path in (tmp_path, tmp_path / "metrics.csv"):
        assert read_log(path).losses == pytest.approx(LOSSES)
    assert read_log(tmp_path, Names("train_loss")).losses == pytest.approx(LOSSES + 1)


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
        (words, None, "not a number"),
        (binary, None, "binary.csv"),
        (tmp_path / "empty", None, "0 logs"),
        (tmp_path / "none.csv", None, "cannot be read"),
        (write_events(tmp_path / "events"), "nll", "train/lr, val_loss, expected nll"),
    ):
        with pytest.raises(DataError, match=match):
            read_log(path, Names(loss))
    assert read_log(odd, Names("perplexity")).losses == pytest.approx(LOSSES)
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


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi", "olmo2", "gpt2"])
def test_a_model_has_one_size_tied_or_not_for_plans_and_for_training(tmp_path: Path, family: str) -> None:
    """`--lr auto` goes by what `--params` counts; an untied head is but a table more."""
    sizes, rates = [], []
    data = tiny_data(tmp_path)
    for tied in (True, False):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**COMMON, "vocab_size": 256, "model_type": family, "tie_word_embeddings": tied}))
        sizes.append(model_size(str(file)))
        common = {"data": data, "config": json.loads(file.read_text()), "seqlen": 16, "accelerator": "cpu"}
        done = train({**common, "out": tmp_path / f"{tied}", "train_steps": 1, "batch_size": 1, "warmup_steps": 0})
        rates.append(done.lr)
    assert sizes[0] == sizes[1]
    assert rates == pytest.approx([0.003239 - 0.0001395 * math.log10(size) for size in sizes], rel=1e-9)


@pytest.mark.parametrize("value", ["-1", "nan", "nowhere/config.json"])
def test_sizes_that_are_none_are_named(value: str) -> None:
    with pytest.raises(RequestError, match="params"):
        model_size(value)


def test_a_config_of_no_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CkptgrowError, match="model_type"):
        model_size(str(tmp_path / "config.json"))
