"""Lightning itself resumes what was grown: at the right step, data position and learning rate, and trains."""

from __future__ import annotations

import importlib.util
import zipfile
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.errors import CheckpointError
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning
from tests.helpers.paths import ROOT

FIXTURE = ROOT / "fixtures" / "gpt2-tiny.ckpt"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The script that made the fixture: a LightningModule and its data."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "fixtures" / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resume(make: ModuleType, path: Path, num_steps: int) -> tuple[Any, Any, list[float]]:
    """Fits from a checkpoint for some steps; returns trainer, module and the learning rate of every step."""
    config = torch.load(path, weights_only=True)["hyper_parameters"]["config"]
    start = int(torch.load(path, weights_only=True)["global_step"])
    rates: list[float] = []

    class Watched(make.ByteModel):  # type: ignore[name-defined, misc]
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            rates.append(self.optimizers().param_groups[0]["lr"])

    model = Watched(config)
    runner = make.trainer(start + num_steps)
    runner.fit(model, make.byte_loader(), ckpt_path=path)
    return runner, model, rates


@pytest.mark.parametrize("operator", ["width", "depth"])
def test_fit_resumes_a_grown_checkpoint_where_the_small_run_was(
    tmp_path: Path, make: ModuleType, operator: str
) -> None:
    grow = {
        "width": lambda: ckptgrow.width(FIXTURE, tmp_path / "grown.ckpt"),
        "depth": lambda: ckptgrow.depth(FIXTURE, tmp_path / "grown.ckpt"),
    }
    grow[operator]()
    small_runner, small, small_rates = resume(make, FIXTURE, 10)
    runner, model, rates = resume(make, tmp_path / "grown.ckpt", 10)
    assert runner.global_step == small_runner.global_step == 310
    assert rates == pytest.approx(small_rates, rel=1e-12)
    assert model.losses[0] == pytest.approx(small.losses[0], rel=1e-5)  # same batch, same function
    assert len(model.losses) == 10 and max(model.losses) < model.losses[0] + 2.0
    assert runner.fit_loop.epoch_loop.batch_progress.total.completed == 310


def test_a_moved_step_moves_the_schedule_and_not_the_data(tmp_path: Path, make: ModuleType) -> None:
    ckptgrow.width(FIXTURE, tmp_path / "grown.ckpt", request=StateRequest(step="auto"))
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    step = round(300 / 1.776)
    assert tree["global_step"] == step
    assert {float(record["step"]) for record in tree["optimizer_states"][0]["state"].values()} == {step}
    runner, model, rates = resume(make, tmp_path / "grown.ckpt", 5)
    fresh = make.ByteModel(torch.load(FIXTURE, weights_only=True)["hyper_parameters"]["config"])
    made = fresh.configure_optimizers()
    expected: list[float] = []
    for index in range(step + 5):
        if index >= step:
            expected.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx(expected, rel=1e-9)
    assert runner.global_step == step + 5
    assert runner.fit_loop.epoch_loop.batch_progress.total.completed == 305
    _, small, _ = resume(make, FIXTURE, 1)
    assert model.losses[0] == pytest.approx(small.losses[0], rel=1e-5)


def test_reset_parts_begin_anew(tmp_path: Path, make: ModuleType) -> None:
    ckptgrow.width(FIXTURE, tmp_path / "grown.ckpt", request=StateRequest(reset=("optimizer", "schedule")))
    runner, _, rates = resume(make, tmp_path / "grown.ckpt", 2)
    assert rates[0] == pytest.approx(3e-3 * 0.05)  # the warm-up's first
    assert runner.global_step == 302


def test_the_result_is_a_valid_zip_with_right_checksums(tmp_path: Path) -> None:
    ckptgrow.width(FIXTURE, tmp_path / "grown.ckpt")
    with zipfile.ZipFile(tmp_path / "grown.ckpt") as archive:
        assert archive.testzip() is None
        assert any(info.CRC for info in archive.infolist() if "/data/" in info.filename)


def test_rewarm_is_recorded_and_history_grows(tmp_path: Path) -> None:
    ckptgrow.width(FIXTURE, tmp_path / "one.ckpt", request=StateRequest(step=100, rewarm=20))
    ckptgrow.depth(tmp_path / "one.ckpt", tmp_path / "two.ckpt")
    one, two = (torch.load(tmp_path / name, weights_only=True)["ckptgrow"] for name in ("one.ckpt", "two.ckpt"))
    assert one["rewarm"] == {"start": 100, "steps": 20}
    assert [entry["operator"] for entry in two["history"]] == ["width", "depth"]


@pytest.mark.slow
def test_the_layout_of_lightning_1_3_is_read_with_the_original_scripts_arguments(tmp_path: Path) -> None:
    """Namespace arguments, `size` and `seqlen` instead of a config, int steps, no loops, apex-era scaler key."""
    model = perturbed_gpt2(
        vocab_size=50257, n_positions=8, n_embd=384, n_layer=12, n_head=4, n_inner=None, resid_pdrop=0.1
    ).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    raw = optimizer.state_dict()
    raw["state"] = {
        index: {"step": 7, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        for index, p in enumerate(model.parameters())
        if p.numel() < 10**6
    }
    arguments = Namespace(size="GPT2_base_div2_width", seqlen=8, layers=None, lr=1e-3, doubling=None)
    tree = {
        "epoch": 0,
        "global_step": 7,
        "pytorch-lightning_version": "1.3.5",
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "callbacks": {},
        "optimizer_states": [raw],
        "lr_schedulers": [
            {"base_lrs": [1e-3], "last_epoch": 7, "_step_count": 8, "_last_lr": [1e-3], "lr_lambdas": [None]}
        ],
        "native_amp_scaling_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "hparams_name": "args",
        "hyper_parameters": arguments,
    }
    torch.save(tree, tmp_path / "old.ckpt")
    found = ckptgrow.inspect(tmp_path / "old.ckpt")
    assert found.sizes["residual"] == 384 and found.sizes["heads"] == 4 and found.precision == "16-mixed"
    ckptgrow.width(tmp_path / "old.ckpt", tmp_path / "new.ckpt")
    with torch.serialization.safe_globals([Namespace]):
        new = torch.load(tmp_path / "new.ckpt", weights_only=True)
    assert new["hyper_parameters"].size == "GPT2_base_div2_width"
    assert new["hyper_parameters"].config["n_embd"] == 768
    assert new["native_amp_scaling_state"] == tree["native_amp_scaling_state"]
    assert all(
        record["step"] == 7 and isinstance(record["step"], int)
        for record in new["optimizer_states"][0]["state"].values()
    )


def test_unknown_keys_are_carried_and_those_with_parameter_sized_tensors_refused(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    small_things = {"rng": torch.arange(700, dtype=torch.uint8), "metric": torch.tensor(0.5), "note": ["a", 1, None]}
    source = save_lightning(tmp_path / "small.ckpt", model, mine=small_things)
    ckptgrow.width(source, tmp_path / "grown.ckpt")
    carried = torch.load(tmp_path / "grown.ckpt", weights_only=True)["mine"]
    assert torch.equal(carried["rng"], small_things["rng"]) and carried["note"] == ["a", 1, None]

    averages = {"EMA": {"shadow": dict(model.state_dict())}}
    source = save_lightning(tmp_path / "averaged.ckpt", model, callbacks=averages)
    with pytest.raises(CheckpointError, match=r"""callbacks\['EMA'\].*drop=\("callbacks"""):
        ckptgrow.width(source, tmp_path / "no.ckpt")
    ckptgrow.width(source, tmp_path / "dropped.ckpt", request=StateRequest(drop=("callbacks",)))
    assert "callbacks" not in torch.load(tmp_path / "dropped.ckpt", weights_only=True)


def test_loss_scaler_states_survive(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    train(model, torch.optim.AdamW(model.parameters()), token_batches(1))
    scaler = {
        "scale": 1024.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    }
    source = save_lightning(tmp_path / "small.ckpt", model, MixedPrecision=scaler)
    ckptgrow.depth(source, tmp_path / "grown.ckpt")
    assert torch.load(tmp_path / "grown.ckpt", weights_only=True)["MixedPrecision"] == scaler
