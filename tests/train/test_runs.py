"""Real runs in real processes: killed and resumed, on two devices, grown and gone on with."""

from __future__ import annotations

import csv
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.cli import run as run_command
from tests.train.runs import config_file, losses, run, run_until, tiny_data, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    """24 steps of 2 micro-batches of 4: more than a pass over the data."""
    config = config_file(data.parent)
    return f"--data={data} --config={config} --train-steps=24 --batch-size=4 --grad-accum=2 --save-every=5".split()


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    run([*base, f"--out={out}"])
    return out


def same(one: dict[int, float], other: dict[int, float], tolerance: float = 1e-6) -> None:
    assert set(one) == set(other)
    assert max(abs(one[step] - other[step]) for step in one) <= tolerance


def test_killed_and_resumed_is_uninterrupted_across_a_pass_over_the_data(
    tmp_path: Path, base: list[str], data: Path, whole: Path
) -> None:
    out = tmp_path / "out"
    code = run_until([*base, f"--out={out}"], out / "checkpoints" / "step-15.ckpt", signal.SIGKILL)
    assert code == -signal.SIGKILL
    run([f"--data={data}", f"--out={out}", f"--resume={out / 'checkpoints' / 'step-10.ckpt'}"])
    same(losses(whole), losses(out))
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, out))
    assert all(torch.allclose(expected[name], found[name], atol=1e-6) for name in expected)
    sequences = data.joinpath("train.bin").stat().st_size // 2 // 16
    assert sequences < 24 * 2 * 4  # it did cross


def test_two_processes_see_what_one_sees(tmp_path: Path, base: list[str], whole: Path) -> None:
    """DDP over gloo, 2 × 2 sequences a micro-batch instead of 1 × 4."""
    arguments = [one if one != "--batch-size=4" else "--batch-size=2" for one in base]
    run([*arguments, f"--out={tmp_path}", "--devices=2", "--strategy=ddp"])
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, tmp_path))
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 1e-4


@pytest.mark.slow
def test_killed_and_resumed_on_two_processes(tmp_path: Path, base: list[str], data: Path, whole: Path) -> None:
    arguments = [one if one != "--batch-size=4" else "--batch-size=2" for one in base]
    devices = ["--devices=2", "--strategy=ddp"]
    out = tmp_path / "out"
    run_until([*arguments, f"--out={out}", *devices], out / "checkpoints" / "step-10.ckpt", signal.SIGKILL)
    run([f"--data={data}", f"--out={out}", f"--resume={out / 'checkpoints' / 'step-5.ckpt'}", *devices])
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, out))
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 1e-4


def test_a_run_grown_under_mup_follows_the_ungrown_one(tmp_path: Path, data: Path, whole: Path) -> None:
    """From step 10 on: 14 further steps, float32."""
    source = whole / "checkpoints" / "step-10.ckpt"
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule="mup"))
    run([f"--data={data}", f"--out={tmp_path / 'out'}", f"--resume={tmp_path / 'grown.ckpt'}"])
    expected = {step: loss for step, loss in losses(whole).items() if step >= 10}
    same(expected, losses(tmp_path / "out"), 1e-4)
    last = tmp_path / "out" / "checkpoints" / "last.ckpt"
    assert [entry["operator"] for entry in ckptgrow.inspect(last).history] == ["width"]


def test_ctrl_c_saves_and_exits_130(tmp_path: Path, base: list[str]) -> None:
    arguments = [*base, f"--out={tmp_path}", "--train-steps=5000"]
    assert run_until(arguments, tmp_path / "checkpoints" / "step-10.ckpt", signal.SIGINT) == 130
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 10


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, data: Path, whole: Path
) -> None:
    broken = torch.load(whole / "checkpoints" / "step-10.ckpt", weights_only=True)
    broken["state_dict"]["model.transformer.wpe.weight"][3] = float("nan")
    torch.save(broken, tmp_path / "broken.ckpt")
    done = run([f"--data={data}", f"--out={tmp_path / 'out'}", f"--resume={tmp_path / 'broken.ckpt'}"], expected=2)
    assert "step 1" in done.stderr and "nan" in done.stderr
    assert not list((tmp_path / "out").rglob("*.ckpt"))


def test_steps_and_rewarming_restart_the_schedule_and_not_the_data(tmp_path: Path, data: Path, whole: Path) -> None:
    source = whole / "checkpoints" / "step-10.ckpt"
    ckptgrow.depth(source, tmp_path / "grown.ckpt", request=StateRequest(step=6, rewarm=4))
    run([f"--data={data}", f"--out={tmp_path / 'out'}", f"--resume={tmp_path / 'grown.ckpt'}"])
    with next((tmp_path / "out" / "logs").rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("lr-AdamW/pg1")]
    rates = list({row["step"]: float(row["lr-AdamW/pg1"]) for row in rows}.values())
    course = [3e-3 * (24 - step) / 21 for step in range(6, 24)]
    expected = [rate * min(1.0, (index + 1) / 4) for index, rate in enumerate(course)]
    assert rates == pytest.approx(expected, rel=1e-6)
    last = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["position"] == (10 + 18) * 8 and last["global_step"] == 24


@pytest.mark.slow
def test_train_width_train_depth_train_falls_in_every_stage_and_never_jumps(tmp_path: Path, data: Path) -> None:
    config = config_file(tmp_path)
    common = [f"--data={data}", "--batch-size=8", "--schedule=constant", "--val-every=20", "--save-every=60"]
    run([*common, f"--config={config}", f"--out={tmp_path / 'a'}", "--train-steps=60"])
    for before, after, grow, steps in (
        ("a", "b", ["width", "--noise", "0.5", "--lr-rule", "mup"], 120),
        ("b", "c", ["depth"], 180),
    ):
        source, grown = tmp_path / before / "checkpoints" / "last.ckpt", tmp_path / f"{after}.ckpt"
        assert run_command([grow[0], str(source), str(grown), *grow[1:]]) == 0
        assert run_command(["verify", str(source), str(grown)]) == 0
        run([*common, f"--resume={grown}", f"--out={tmp_path / after}", f"--train-steps={steps}"])
    stages = [list(losses(tmp_path / name).values()) for name in "abc"]
    means = [(sum(one[:10]) / 10, sum(one[-10:]) / 10) for one in stages]
    assert all(last < first for first, last in means)
    for (_, before), (after, _) in pairwise(means):
        assert after < before + 0.15


def test_bad_requests_are_one_line(tmp_path: Path, data: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_file(tmp_path)
    wide = tmp_path / "other"
    shutil.copytree(data, wide)
    (wide / "meta.json").write_text((wide / "meta.json").read_text().replace('"vocab_size": 256', '"vocab_size": 999'))
    other = tmp_path / "other.json"
    other.write_text(config.read_text().replace('"n_embd": 12', '"n_embd": 24'))
    source = whole / "checkpoints" / "last.ckpt"
    cases = [
        ([f"--data={tmp_path}", f"--config={config}"], ["meta.json"]),
        ([f"--data={wide}", f"--config={config}"], ["vocabulary of 999", "256"]),
        ([f"--data={data}", f"--config={config}", "--seqlen=32"], ["--seqlen 32", "16 positions"]),
        ([f"--data={data}", "--size=GPT3"], ["GPT3", "GPT2_base"]),
        ([f"--data={data}"], ["--config", "--size", "--resume"]),
        ([f"--data={data}", f"--config={other}", f"--resume={source}"], ["n_embd", "24", "12"]),
        (
            [f"--data={data}", f"--config={config}", "--seqlen=16", "--accelerator=cuda", "--devices=64"],
            ["--devices 64"],
        ),
        ([f"--data={data}", f"--resume={tmp_path / 'none.ckpt'}"], ["none.ckpt"]),
        ([f"--data={data}", f"--config={config}", "--lr=fast"], ["--lr fast"]),
    ]
    for arguments, words in cases:
        assert run_command(["train", f"--out={tmp_path / 'out'}", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert not (tmp_path / "out").exists()
