"""What a run says in a log, what it remembers, and when it saves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ckptgrow.cli import run
from ckptgrow.train import saving
from tests.helpers.commands import refused
from tests.helpers.training_runs import CONFIG, TINY, config_file, tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


def trained(data: Path, out: Path, *more: str, config: Path | None = None) -> int:
    known = [] if any(one.startswith("--resume") for one in more) else [f"--config={config or config_file(out.parent)}"]
    return run(["train", f"--data={data}", f"--out={out}", "--batch-size=4", *known, *TINY, *more])


def test_a_log_tells_what_the_run_is_each_logged_step_and_the_last_rate(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        trained(data, tmp_path / "out", "--train-steps=5", "--log-every=2", "--grad-accum=2", "--schedule=linear") == 0
    )
    told = capsys.readouterr().out.splitlines()
    num = sum(one.numel() for one in torch.load(tmp_path / "out/checkpoints/last.ckpt")["state_dict"].values())
    num -= CONFIG["vocab_size"] * CONFIG["n_embd"]  # the head is the embedding
    tokens = json.loads((data / "meta.json").read_text())["num_tokens"]["train"]
    assert told[0].startswith(f"model: gpt2, {num:,} parameters") and told[0].endswith("on cpu, precision 32")
    passes = 5 * 8 * 16 / tokens
    assert told[1] == (
        "steps: 5, of 8 sequences of 16 tokens (128 tokens a step); "
        f"{passes:.2g} passes over {tokens:,} training tokens"
    )
    assert told[2] == (
        "learning rate: 0.003 at its peak, linear after 3 steps of warm-up; weight decay 0.1, β 0.9 and 0.95, "
        "gradients clipped at norm 1"
    )
    assert [line.split(":")[0] for line in told[3:-1]] == ["step 2/5", "step 4/5", "step 5/5"]
    with (tmp_path / "out" / "metrics.csv").open() as file:
        logged = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    assert all(f"lr {logged[step]:.3g}" in line for step, line in zip((2, 4), told[3:], strict=False))
    last = 0.003 * 1 / 2  # linear from the peak at step 3 to nothing at step 5: the fifth step's
    assert f"last learning rate {last:.4g} (peak 0.003)" in told[-1]


def test_a_validation_is_told_with_its_step_where_that_is_an_earlier_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    often = ["--log-every=1", "--val-every=3"]
    assert trained(data, tmp_path / "out", "--train-steps=9", "--stop-at=5", *often) == 0
    told = capsys.readouterr().out.splitlines()
    with (tmp_path / "out" / "metrics.csv").open() as file:
        (validated,) = [row for row in csv.DictReader(file) if row["val_loss"]]
    assert validated["step"] == "3"
    loss = f"{float(validated['val_loss']):.4f} (of step 3)"
    assert told[-1].endswith(f"val_loss {loss}")
    assert all(f"val {loss}" in line for line in told if line.startswith(("step 4/9", "step 5/9")))


def test_the_state_at_a_runs_end_is_validated(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained(data, tmp_path / "out", "--train-steps=5", "--grad-accum=2", "--val-every=100") == 0
    told = capsys.readouterr().out.splitlines()
    with (tmp_path / "out" / "metrics.csv").open() as file:
        (validated,) = [row for row in csv.DictReader(file) if row["val_loss"]]
    assert validated["step"] == "5" and told[-1].endswith(f"val_loss {float(validated['val_loss']):.4f}")


@pytest.mark.parametrize(
    ("option", "words"),
    [("--data=nowhere", "nowhere: no such directory, expected what `ckptgrow data` writes"),
     ("--config=nowhere.json", "nowhere.json: no such file, expected a transformers config.json")],
)  # fmt: skip
def test_a_path_that_is_not_there_is_called_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, words: str
) -> None:
    known = [f"--data={data}", f"--config={config_file(tmp_path)}", f"--out={tmp_path / 'out'}", *TINY]
    refused(["train", *known, option], capsys, words)


def test_a_vocabulary_far_from_the_datas_is_a_warning(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "wide.json"
    config.write_text(json.dumps(CONFIG | {"vocab_size": 2048}))
    assert trained(data, tmp_path / "out", "--train-steps=1", "--warmup-steps=0", config=config) == 0
    assert "warning: the model has 2,048 tokens, the data 256" in capsys.readouterr().out
    config.write_text(json.dumps(CONFIG | {"vocab_size": 320}))  # padded, as many are
    assert trained(data, tmp_path / "out2", "--train-steps=1", "--warmup-steps=0", config=config) == 0
    assert "warning" not in capsys.readouterr().out


def test_sequences_are_as_long_as_the_model_reads_where_none_are_asked_for(data: Path, tmp_path: Path) -> None:
    options = ["--train-steps=1", "--warmup-steps=0", "--accelerator=cpu", "--batch-size=2"]
    arguments = [f"--data={data}", f"--out={tmp_path / 'out'}", f"--config={config_file(tmp_path)}", *options]
    assert run(["train", *arguments]) == 0
    tree = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt")
    assert tree["hyper_parameters"]["run"]["seqlen"] == CONFIG["n_positions"]
    assert tree["tokens_seen"] == 2 * CONFIG["n_positions"]


def test_a_run_that_goes_on_validates_logs_and_saves_as_before(data: Path, tmp_path: Path) -> None:
    out, on = tmp_path / "out", tmp_path / "on"
    arguments = [f"--data={data}", f"--config={config_file(tmp_path)}", "--seqlen=16", "--batch-size=4", "--lr=3e-3"]
    often = ["--val-every=3", "--log-every=1", "--save-every=2", "--val-sequences=2", "--accelerator=cpu"]
    assert run(["train", *arguments, *often, f"--out={out}", "--train-steps=4", "--warmup-steps=1"]) == 0
    resumed = [f"--data={data}", f"--out={on}", f"--resume={out}/checkpoints/last.ckpt", "--accelerator=cpu"]
    assert run(["train", *resumed, "--train-steps=8"]) == 0
    assert {one.name for one in (on / "checkpoints").iterdir()} == {"last.ckpt", "step-6.ckpt", "step-8.ckpt"}
    with (on / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["loss"]] == [5, 6, 7, 8]
    assert [int(row["step"]) for row in rows if row["val_loss"]] == [6, 8]  # and at its end


def test_a_size_of_validation_in_batches_replaces_one_in_sequences(data: Path, tmp_path: Path) -> None:
    out, on = tmp_path / "out", tmp_path / "on"
    assert trained(data, out, "--train-steps=4", "--val-sequences=3") == 0
    assert trained(data, on, f"--resume={out}/checkpoints/last.ckpt", "--train-steps=5", "--val-batches=1") == 0
    stored = torch.load(on / "checkpoints" / "last.ckpt")["hyper_parameters"]["run"]
    assert (stored["val_sequences"], stored["val_batches"]) == (None, 1)


def test_a_checkpoint_is_written_after_so_many_minutes_without_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by a minute whenever it is read."""
    minutes = iter(range(10**6))
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
    assert trained(data, tmp_path / "out", "--train-steps=12", "--log-every=2", "--save-minutes=3") == 0
    written = sorted(int(one.stem.split("-")[1]) for one in (tmp_path / "out" / "checkpoints").glob("step-*.ckpt"))
    # asked after steps 2, 4, 6 …: the third reading since the last checkpoint is 3 minutes late
    assert written == [6, 12]


def test_an_accelerator_that_is_not_here_is_what_is_wrong(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    arguments = [f"--data={data}", f"--out={tmp_path / 'out'}", f"--config={config_file(tmp_path)}"]
    refused(["train", *arguments, "--accelerator=cuda"], capsys, "--accelerator cuda", "no GPUs")
