"""Muon beside AdamW: a plain loop of torch's optimizers sees the same, and its state goes on, grows and verifies."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.state.train_schedule import NEW_RISE
from ckptgrow.train.order import BatchOrder, BatchShare, Passes
from ckptgrow.verification.verify_settings import VerifySettings
from tests.helpers.lightning_files import load_model
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here, weights

STEPS, PEAK = 24, 3e-3
OUTER = ("transformer.wte.weight", "transformer.wpe.weight")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    sizes = [f"--train-steps={STEPS}", "--batch-size=4", "--save-every=4", "--optimizer=muon", "--schedule=linear"]
    return [f"--data={data}", f"--config={config_file(data.parent)}", *sizes]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, f"--out={out}"])
    return out


def test_a_plain_loop_of_torchs_optimizers_has_the_same_losses(data: Path, base: list[str], tmp_path: Path) -> None:
    """From the first checkpoint's own beginning: the model of step 0, which --init-from a run of no rate has."""
    train_here([*base, f"--out={tmp_path / 'still'}", "--lr=0", "--stop-at=1", "--weight-decay=0"])
    model, _ = load_model(tmp_path / "still" / "checkpoints" / "last.ckpt")
    train_here([*base, f"--out={tmp_path / 'out'}"])
    named = dict(model.train().named_parameters())
    hidden = [one for name, one in named.items() if one.dim() == 2 and name not in OUTER]
    vectors = [one for one in named.values() if one.dim() == 1]
    muon = torch.optim.Muon(hidden, lr=PEAK, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": [named[name] for name in OUTER]}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    tokens = np.fromfile(data / "train.bin", dtype=np.uint16).astype(np.int64)
    order = BatchOrder(Passes((len(tokens) - 1) // 16, 3), 16, BatchShare(batch_size=4))
    found = losses(tmp_path / "out")
    for step, drawn in enumerate(islice(order, STEPS)):
        batch = torch.stack([torch.from_numpy(tokens[16 * number : 16 * number + 17]) for number, _, _ in drawn])
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        assert found[step + 1] == pytest.approx(float(loss.detach()), abs=2e-5)  # Muon iterates in bfloat16
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        rate = PEAK * min((step + 1) / 3, (STEPS - step) / (STEPS - 3))
        for optimizer in (muon, adamw):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
    assert found[STEPS] < found[1] - 0.5


def test_a_checkpoint_has_both_optimizers_as_torch_writes_them(whole: Path) -> None:
    tree = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    muon, adamw = tree["optimizer_states"]
    assert [group["adjust_lr_fn"] for group in muon["param_groups"]] == ["match_rms_adamw"]
    assert {name for one in muon["state"].values() for name in one} == {"momentum_buffer"}
    assert not any(name in group["param_names"] for group in muon["param_groups"] for name in OUTER)
    assert {name for one in adamw["state"].values() for name in one} == {"step", "exp_avg", "exp_avg_sq"}
    assert [len(one["base_lrs"]) for one in tree["lr_schedulers"]] == [1, 2]


def test_its_state_goes_on_to_the_bit(tmp_path: Path, base: list[str], whole: Path) -> None:
    out = tmp_path / "out"
    train_here([*base, f"--out={out}", "--stop-at=11"])
    train_here([base[0], f"--out={out}", f"--resume={out / 'checkpoints' / 'last.ckpt'}"])
    assert losses(out) == losses(whole) and losses(out, "lr") == losses(whole, "lr")
    trees = [torch.load(one / "checkpoints" / "last.ckpt", weights_only=True) for one in (whole, out)]
    expected, found = (tree["optimizer_states"] for tree in trees)
    for one, other in zip(expected, found, strict=True):
        assert one["param_groups"] == other["param_groups"]
        for number, record in one["state"].items():
            assert all(torch.equal(record[name], other["state"][number][name]) for name in record)


@pytest.mark.parametrize("operator", ["width", pytest.param("depth", marks=pytest.mark.slow)])
def test_it_grows_verifies_and_goes_on_with_a_rise_of_new_rates(
    tmp_path: Path, data: Path, whole: Path, operator: str
) -> None:
    source, grown = whole / "checkpoints" / "step-12.ckpt", tmp_path / "grown.ckpt"
    {"width": ckptgrow.width, "depth": ckptgrow.depth}[operator](source, grown, request=StateRequest(lr_rule="keep"))
    report = ckptgrow.verify(source, grown, settings=VerifySettings(steps=2))
    assert report.passed and report.moments is not None and report.moments.passed
    out = tmp_path / "out"
    train_here([f"--data={data}", f"--out={out}", f"--resume={grown}", "--rewarm-new=1.3,4"])
    assert losses(out)[13] == pytest.approx(losses(whole)[13], abs=2e-6)  # float32 sums
    last = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(last["optimizer_states"]) == 2 and last["ckptgrow"][NEW_RISE]["done"] == 12
    middle = out / "checkpoints" / "step-16.ckpt"
    train_here([f"--data={data}", f"--out={tmp_path / 'again'}", f"--resume={middle}"])
    assert losses(tmp_path / "again") == {step: loss for step, loss in losses(out).items() if step > 16}
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (out, tmp_path / "again"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_other_optimizer_needs_a_reset(
    tmp_path: Path, data: Path, base: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [f"--data={data}", f"--resume={whole / 'checkpoints' / 'step-12.ckpt'}", f"--out={tmp_path / 'out'}"]
    for arguments, words in (
        ([*source, "--optimizer=adamw"], ["--optimizer adamw", "state of muon", "--reset optimizer"]),
        ([*base, f"--out={tmp_path / 'out'}", "--strategy=fsdp"], ["--optimizer muon", "whole matrices"]),
        ([*base, f"--out={tmp_path / 'out'}", "--optimizer=lion"], ["--optimizer", "muon"]),
    ):
        capsys.readouterr()
        train_here(arguments, expected=2)
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert not (tmp_path / "out").exists()
    train_here([*source, "--optimizer=adamw", "--reset=optimizer"])
    last = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(last["optimizer_states"]) == 1
    back = [f"--data={data}", f"--resume={tmp_path / 'out' / 'checkpoints' / 'step-16.ckpt'}"]
    train_here([*back, f"--out={tmp_path / 'back'}", "--optimizer=muon", "--reset=optimizer"])
    last = torch.load(tmp_path / "back" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(last["optimizer_states"]) == len(last["lr_schedulers"]) == 2
