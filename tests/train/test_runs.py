"""Real runs: killed and resumed, on two processes, grown and gone on with."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.train.order import BatchOrder, BatchShare, DataPosition, Passes
from tests.helpers.lightning_files import load_model
from tests.helpers.training_runs import (
    CONFIG,
    config_file,
    kill_at,
    losses,
    rows,
    start_at,
    tiny_data,
    train_here,
    train_in_process,
    weights,
)

ROUNDING = 2e-6  # float32 losses of about 5, summed in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    """64 steps of 2 micro-batches of 4: several passes over the data."""
    config = config_file(data.parent)
    sizes = ["--train-steps=64", "--batch-size=4", "--grad-accum=2", "--save-every=10", "--val-every=32"]
    return [f"--data={data}", f"--config={config}", "--recipe=staged-training", *sizes]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, f"--out={out}"])
    return out


@pytest.fixture(scope="module")
def shared(base: list[str], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on two gloo processes, 2 × 2 sequences a micro-batch, killed and resumed."""
    out = tmp_path_factory.mktemp("shared") / "out"
    devices = ["--devices=2", "--strategy=ddp", "--val-every=32", f"--out={out}"]
    arguments = [one if one != "--batch-size=4" else "--batch-size=2" for one in base]
    kill_at([*arguments, *devices], out / "checkpoints" / "step-20.ckpt")
    done = train_in_process([f"--data={data}", f"--resume={out / 'checkpoints' / 'last.ckpt'}", "--json", *devices])
    assert json.loads(done.stdout)["global_step"] == 64  # one object, of the main process alone
    told = done.stderr.splitlines()
    assert sum(line.startswith(("model: ", "went on from ")) for line in told) == 2, told
    assert len({line for line in told if line.startswith("step ")}) == sum(one.startswith("step ") for one in told)
    return out


def same(one: dict[int, float], other: dict[int, float], tolerance: float = ROUNDING) -> None:
    assert set(one) == set(other)
    assert max(abs(one[step] - other[step]) for step in one) <= tolerance


def test_killed_and_resumed_is_uninterrupted_over_several_passes(
    tmp_path: Path, base: list[str], data: Path, whole: Path
) -> None:
    out = tmp_path / "out"
    kill_at([*base, f"--out={out}"], out / "checkpoints" / "step-30.ckpt")
    train_here([f"--data={data}", f"--out={out}", f"--resume={out / 'checkpoints' / 'last.ckpt'}"])
    assert losses(out) == losses(whole)  # to the last bit
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, out))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert set(losses(out)) == set(range(1, 65))
    sequences = data.joinpath("train.bin").stat().st_size // 2 // 16
    assert 2 * sequences < 64 * 8  # it did cross


def test_two_processes_killed_and_resumed_see_what_one_sees(whole: Path, shared: Path) -> None:
    same(losses(whole), losses(shared), 1e-5)
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, shared))
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 1e-4
    positions = [
        torch.load(one / "checkpoints" / "last.ckpt", weights_only=True)["position"] for one in (whole, shared)
    ]
    assert positions == [512, 512]
    same(losses(whole, "val_loss"), losses(shared, "val_loss"), 1e-5)


@pytest.mark.slow
def test_torchrun_goes_on_with_two_processes(tmp_path: Path, data: Path, whole: Path) -> None:
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ckptgrow"]
    source = whole / "checkpoints" / "step-50.ckpt"
    arguments = [f"--data={data}", f"--resume={source}", f"--out={out}", "--batch-size=2", "--devices=2", "--json"]
    more = ["--accelerator=cpu", "--log-every=1", "--val-every=1000", "--val-batches=2"]
    done = subprocess.run([*launcher, "train", *arguments, *more], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["global_step"] == 64
    same({step: loss for step, loss in losses(whole).items() if step > 50}, losses(out), 1e-5)


def gradient(model: torch.nn.Module, data: Path, numbers: list[int]) -> torch.Tensor:
    """The gradient of the mean loss over some training sequences, flat, by autograd alone."""
    tokens = np.fromfile(data / "train.bin", dtype=np.uint16).astype(np.int64)
    batch = torch.stack([torch.from_numpy(tokens[16 * number : 16 * number + 17]) for number in numbers])
    model.zero_grad()
    logits = model(input_ids=batch[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def test_gradient_norms_are_those_of_autograd_under_accumulation_and_on_two_processes(
    data: Path, whole: Path, shared: Path
) -> None:
    """Step 21: the norm of the mean gradient, of the first micro-batch's, and of each process's."""
    model, tree = load_model(whole / "checkpoints" / "step-20.ckpt")
    num = (data.joinpath("train.bin").stat().st_size // 2 - 1) // 16
    order = BatchOrder(Passes(num, 3), 16, BatchShare(batch_size=4), start=DataPosition(tree["position"]))
    first, second = ([number for number, _, _ in batch] for batch in islice(order, 2))
    mean = float(gradient(model, data, first + second).norm())
    parts = [gradient(model, data, [*first[:2], *second[:2]]), gradient(model, data, [*first[2:], *second[2:]])]
    local = (sum(float(one.square().sum()) for one in parts) / 2) ** 0.5
    for out, small in ((whole, float(gradient(model, data, first).norm())), (shared, local)):
        row = next(row for row in rows(out) if row["step"] == "21")
        assert float(row["grad_norm"]) == pytest.approx(mean, rel=1e-4)
        assert float(row["grad_norm_local"]) == pytest.approx(small, rel=1e-4)
        assert row["batch_size"] == "8"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGHUP, 129), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_ctrl_c_and_termination_save_between_steps_and_lose_nothing(
    tmp_path: Path, base: list[str], data: Path, whole: Path, number: int, code: int
) -> None:
    out = tmp_path / "out"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is inherited, and ignored under nohup
    process = start_at([*base, f"--out={out}"], out / "checkpoints" / "step-10.ckpt")
    signal.signal(signal.SIGHUP, before)
    process.send_signal(number)
    assert process.wait(timeout=240) == code
    last = out / "checkpoints" / "last.ckpt"
    assert 10 <= torch.load(last, weights_only=True)["global_step"] < 64
    train_here([f"--data={data}", f"--out={out}", f"--resume={last}"])
    assert losses(out) == losses(whole)


def test_a_run_grown_under_mup_follows_the_ungrown_one(tmp_path: Path, data: Path, whole: Path) -> None:
    """From step 10 on: 54 further steps, float32."""
    source = whole / "checkpoints" / "step-10.ckpt"
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule="mup"))
    going = ["--rewarm=0", f"--resume={tmp_path / 'grown.ckpt'}"]
    train_here([f"--data={data}", f"--out={tmp_path / 'out'}", *going])
    expected = {step: loss for step, loss in losses(whole).items() if step > 10}
    same(expected, losses(tmp_path / "out"), 1e-4)
    last = tmp_path / "out" / "checkpoints" / "last.ckpt"
    assert [entry["operator"] for entry in ckptgrow.inspect(last).history] == ["width"]


def test_another_split_into_micro_batches_changes_nothing(tmp_path: Path, data: Path, whole: Path) -> None:
    source = whole / "checkpoints" / "step-30.ckpt"
    more = ["--grad-accum=4", "--batch-size=2", f"--out={tmp_path / 'out'}"]
    train_here([f"--data={data}", f"--resume={source}", *more])
    expected = {step: loss for step, loss in losses(whole).items() if step > 30}
    same(expected, losses(tmp_path / "out"), 1e-5)


def test_dropout_goes_on_with_the_same_masks(tmp_path: Path, data: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIG, "resid_pdrop": 0.3, "attn_pdrop": 0.3}))
    common = [f"--data={data}", "--batch-size=4", "--schedule=constant", "--save-every=4"]
    train_here([*common, f"--config={config}", f"--out={tmp_path / 'a'}", "--train-steps=8"])
    train_here([*common, f"--resume={tmp_path / 'a' / 'checkpoints' / 'step-4.ckpt'}", f"--out={tmp_path / 'b'}"])
    assert losses(tmp_path / "b") == {step: loss for step, loss in losses(tmp_path / "a").items() if step > 4}


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that no run survives: it breaks, and no checkpoint is written from there on."""
    out = tmp_path / "out"
    source = whole / "checkpoints" / "step-10.ckpt"
    capsys.readouterr()
    arguments = [
        f"--data={data}",
        f"--out={out}",
        f"--resume={source}",
        "--save-every=1",
        "--log-every=50",
        "--lr=1e38",
    ]
    train_here(arguments, expected=2)
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "not a finite number" in error
    broken = int(error.split("step ")[1].split(":")[0])
    saved = sorted((out / "checkpoints").glob("step-*.ckpt"), key=lambda path: int(path.stem[5:]))
    assert [int(path.stem[5:]) for path in saved] == list(range(11, broken))
    assert (out / "checkpoints" / "last.ckpt").samefile(saved[-1])


def test_steps_and_rewarming_restart_the_schedule_and_not_the_data(tmp_path: Path, data: Path, whole: Path) -> None:
    source = whole / "checkpoints" / "step-10.ckpt"
    ckptgrow.depth(source, tmp_path / "grown.ckpt", request=StateRequest(step=6, rewarm=4))
    train_here([f"--data={data}", f"--out={tmp_path / 'out'}", f"--resume={tmp_path / 'grown.ckpt'}", "--save-every=3"])
    course = [3e-3 * (64 - step) / 61 for step in range(6, 64)]
    expected = [rate * min(1.0, (index + 1) / 4) for index, rate in enumerate(course)]
    assert list(losses(tmp_path / "out", "lr").values()) == pytest.approx(expected, rel=1e-6)
    last = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["position"] == (10 + 58) * 8 and last["global_step"] == 64
    assert last["ckptgrow"]["rewarm"] == {"start": 6, "steps": 4} and len(last["ckptgrow"]["history"]) == 1
    # resumed in the middle of its rise, it rises on
    middle = tmp_path / "out" / "checkpoints" / "step-9.ckpt"
    train_here([f"--data={data}", f"--out={tmp_path / 'again'}", f"--resume={middle}"])
    assert list(losses(tmp_path / "again", "lr").values()) == pytest.approx(expected[3:], rel=1e-6)


def test_a_run_can_restart_its_schedule_data_and_optimizer(tmp_path: Path, data: Path, whole: Path) -> None:
    source = f"--resume={whole / 'checkpoints' / 'step-10.ckpt'}"
    common = [f"--data={data}", source, "--train-steps=20"]
    train_here([*common, f"--out={tmp_path / 'a'}", "--step=15", "--rewarm=2", "--lr=6e-3"])
    rates = [6e-3 * (20 - step) / 17 for step in range(15, 20)]
    assert list(losses(tmp_path / "a", "lr").values()) == pytest.approx([rates[0] / 2, *rates[1:]], rel=1e-6)
    saved = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["ckptgrow"]["rewarm"] == {"start": 15, "steps": 2} and saved["position"] == 15 * 8
    train_here([*common, f"--out={tmp_path / 'b'}", "--reset=schedule,data,optimizer", "--weight-decay=0.5"])
    saved = torch.load(tmp_path / "b" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["position"] == 20 * 8 and saved["global_step"] == 20
    optimizer = saved["optimizer_states"][0]
    assert {float(one["step"]) for one in optimizer["state"].values()} == {20.0}
    assert [group["weight_decay"] for group in optimizer["param_groups"]] == [0.5, 0.0]
    assert "transformer.wte.weight" in optimizer["param_groups"][0]["param_names"]
    assert list(losses(tmp_path / "b", "lr").values())[:3] == pytest.approx([1e-3, 2e-3, 3e-3])


def test_a_run_that_stops_at_a_step_follows_the_schedule_of_all_its_steps(
    tmp_path: Path, base: list[str], data: Path, whole: Path
) -> None:
    """Its rate does not know where it stops; gone on with, it is the run that never stopped."""
    train_here([*base, f"--out={tmp_path}", "--stop-at=7"])
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 7
    assert losses(tmp_path, "lr") == {step: lr for step, lr in losses(whole, "lr").items() if step <= 7}
    train_here([f"--data={data}", f"--out={tmp_path}", f"--resume={last}"])
    same(losses(tmp_path), losses(whole), 0.0)


def test_only_the_newest_checkpoints_are_kept_where_asked(tmp_path: Path, data: Path, whole: Path) -> None:
    more = ["--train-steps=16", "--save-every=2", "--keep=2", f"--out={tmp_path / 'out'}"]
    train_here([f"--data={data}", f"--resume={whole / 'checkpoints' / 'step-10.ckpt'}", *more])
    assert {one.name for one in (tmp_path / "out" / "checkpoints").iterdir()} == {
        "step-14.ckpt",
        "step-16.ckpt",
        "last.ckpt",
    }


def test_bad_requests_are_one_line(tmp_path: Path, data: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_file(tmp_path)
    wide, short, other_data = tmp_path / "wide", tmp_path / "short", tmp_path / "other_data"
    for copy, old, new in (
        (wide, '"vocab_size": 256', '"vocab_size": 999'),
        (short, '"dtype": "uint16"', '"dtype": "uint32"'),
        (other_data, '"train": "', '"train": "0'),
    ):
        shutil.copytree(data, copy)
        (copy / "meta.json").write_text((copy / "meta.json").read_text().replace(old, new))
    other = tmp_path / "other.json"
    other.write_text(config.read_text().replace('"n_embd": 12', '"n_embd": 24'))
    long = tmp_path / "long.json"
    long.write_text(config.read_text().replace('"n_positions": 16', '"n_positions": 99999'))
    last, early = whole / "checkpoints" / "last.ckpt", whole / "checkpoints" / "step-10.ckpt"
    cases = [
        ([f"--data={tmp_path}", f"--config={config}"], ["meta.json"]),
        ([f"--data={wide}", f"--config={config}"], ["vocabulary of 999", "256"]),
        ([f"--data={short}", f"--config={config}"], ["uint32", "meta.json"]),
        ([f"--data={data}", f"--config={config}", "--seqlen=32"], ["--seqlen 32", "16 positions"]),
        ([f"--data={data}", f"--config={long}", "--seqlen=9999"], ["train.bin", "10000"]),
        ([f"--data={data}", "--size=GPT3"], ["GPT3", "GPT2_base"]),
        ([f"--data={data}"], ["--config", "--size", "--resume"]),
        ([f"--data={data}", f"--config={config}", "--rewarm=5"], ["--rewarm", "--resume"]),
        ([f"--data={data}", f"--config={other}", f"--resume={early}"], ["n_embd", "24", "12"]),
        ([f"--data={other_data}", f"--resume={early}"], ["other training data", "--reset data"]),
        ([f"--data={data}", f"--resume={early}", "--seed=9"], ["--seed 9", "--reset data"]),
        ([f"--data={data}", f"--resume={early}", "--weight-decay=1"], ["--weight-decay", "--reset optimizer"]),
        ([f"--data={data}", f"--resume={last}"], ["step 64", "--train-steps"]),
        ([f"--data={data}", f"--config={config}", "--accelerator=cuda", "--devices=64"], ["--devices 64", "GPUs"]),
        ([f"--data={data}", f"--config={config}", "--precision=16-mixed"], ["16-mixed", "bf16-mixed"]),
        ([f"--data={data}", f"--config={config}", "--strategy=fsdp", "--precision=64"], ["64", "bf16-mixed", "fsdp"]),
        ([f"--data={data}", f"--resume={tmp_path / 'none.ckpt'}"], ["none.ckpt"]),
        ([f"--data={data}", f"--config={config}", "--lr=fast"], ["--lr fast"]),
    ]
    capsys.readouterr()
    for arguments, words in cases:
        train_here([f"--out={tmp_path / 'out'}", *arguments], expected=2)
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert not (tmp_path / "out").exists()
    train_here([f"--data={data}", f"--config={config}", f"--out={whole}"], expected=2)
    assert "holds a run" in capsys.readouterr().err
