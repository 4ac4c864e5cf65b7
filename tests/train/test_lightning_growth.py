"""Growth within one `fit` of Lightning's Trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

import ckptgrow
from ckptgrow import LightningGrowthCallback, RequestError, StateRequest
from tests.helpers.growing_modules import MOMENT, STEPS, Module, fitted, of_file, small, went_on
from tests.helpers.lightning_files import assert_same


@pytest.mark.parametrize("growth", [{"width": 2}, {"depth": 2}], ids=["width", "depth"])
def test_one_fit_grows_and_goes_on_as_growth_through_files(growth: dict[str, int], tmp_path: Path) -> None:
    model = small()
    module = Module(model, config=model.config.to_dict())
    callback = LightningGrowthCallback(at_step=MOMENT, **growth)
    trainer = fitted(tmp_path, module, callback)
    assert trainer.global_step == STEPS and module.lm is model and len(module.losses) == STEPS
    assert callback.report is not None and callback.report.num_parameters[1] == model.num_parameters()
    before = tmp_path / f"before-growth-{MOMENT}.ckpt"
    still = of_file(before).train()
    assert module.losses[MOMENT] == pytest.approx(float(still.step_at(MOMENT).detach()), rel=1e-5)  # float32
    operator = ckptgrow.width if "width" in growth else ckptgrow.depth
    operator(before, tmp_path / "by-hand.ckpt", factor=2)
    assert went_on(tmp_path / "by-hand.ckpt", range(MOMENT, STEPS)) == module.losses[MOMENT:]
    by_hand, saved = (torch.load(tmp_path / name) for name in ("by-hand.ckpt", f"grown-{MOMENT}.ckpt"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "hyper_parameters"):
        assert_same(by_hand[part], saved[part], part)
    assert_same(by_hand["ckptgrow"]["history"], saved["ckptgrow"]["history"])
    assert ckptgrow.verify(before, tmp_path / f"grown-{MOMENT}.ckpt").passed


def test_the_rates_of_mup_follow_the_schedule_after_growth(tmp_path: Path) -> None:
    module = Module(small(), config=None)
    callback = LightningGrowthCallback(
        at_step=2, width=2, separate="none", request=StateRequest(lr_rule="mup"), directory=tmp_path / "kept"
    )
    trainer = fitted(tmp_path, module, callback)
    rates = {round(group["lr"] / (2e-3 * 0.95**STEPS), 9) for group in trainer.optimizers[0].param_groups}
    assert rates == {1.0, 0.5}
    assert {one.name for one in (tmp_path / "kept").iterdir()} == {"before-growth-2.ckpt", "grown-2.ckpt"}
    small_losses = Module(small())
    fitted(tmp_path, small_losses)
    assert module.losses == pytest.approx(small_losses.losses, rel=1e-4)  # equal but for rounding in float32


@pytest.mark.parametrize("name", ["before-growth-4.ckpt", "grown-4.ckpt"])
def test_a_run_that_goes_on_from_either_side_ends_alike(name: str, tmp_path: Path) -> None:
    model = small()
    module = Module(model, config=model.config.to_dict())
    fitted(tmp_path, module, LightningGrowthCallback(at_step=MOMENT, width=2))
    path = tmp_path / name
    again = of_file(path)
    callback = LightningGrowthCallback(at_step=MOMENT, width=2, directory=tmp_path / "again")
    fitted(tmp_path, again, callback, ckpt_path=path)
    assert again.losses == module.losses[MOMENT:]
    assert (callback.report is not None) == name.startswith("before")
    fitted(tmp_path / "later", again, callback, max_steps=STEPS)
    trainer = fitted(tmp_path / "later", again, callback, max_steps=STEPS)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert len(torch.load(tmp_path / "end.ckpt")["ckptgrow"]["history"]) == 1


def test_two_growths_of_one_fit_are_both_recorded(tmp_path: Path) -> None:
    model = small()
    module = Module(model)
    deeper, wider = LightningGrowthCallback(at_step=5, depth=2), LightningGrowthCallback(at_step=2, width=2)
    fitted(tmp_path, module, deeper, wider)
    assert model.config.n_embd == 24 and model.config.n_layer == 4 and len(module.losses) == STEPS
    history = torch.load(tmp_path / "grown-5.ckpt")["ckptgrow"]["history"]
    assert [one["operator"] for one in history] == ["width", "depth"]
    assert ckptgrow.verify(tmp_path / "before-growth-5.ckpt", tmp_path / "grown-5.ckpt").passed
    assert ckptgrow.inspect(tmp_path / "grown-5.ckpt").config["n_layer"] == 4  # without hyper-parameters of it


def test_the_rates_rise_again_in_the_fit_after_a_stop_and_after_an_interruption(tmp_path: Path) -> None:
    """As a bare loop that multiplies them does; and `verify` finds the rise in what was saved."""
    growth: dict[str, Any] = {"at_step": MOMENT, "width": 2, "request": StateRequest(rewarm=3)}
    model = small()
    module = Module(model, config=model.config.to_dict())
    trainer = fitted(tmp_path, module, LightningGrowthCallback(**growth), max_steps=MOMENT + 2)
    trainer.save_checkpoint(tmp_path / "later.ckpt")
    before, grown = tmp_path / f"before-growth-{MOMENT}.ckpt", tmp_path / f"grown-{MOMENT}.ckpt"
    expected = went_on(grown, range(MOMENT, STEPS), rise=3)
    assert module.losses[MOMENT:] == expected[:2] and expected != went_on(grown, range(MOMENT, STEPS))
    assert torch.load(grown)["ckptgrow"]["rewarm"] == {"start": MOMENT, "steps": 3}
    assert ckptgrow.verify(before, grown).passed
    again = of_file(tmp_path / "later.ckpt")
    fitted(tmp_path, again, LightningGrowthCallback(**growth), ckpt_path=tmp_path / "later.ckpt")
    assert again.losses == expected[2:]
    model = small()
    stopped = Module(model, config=model.config.to_dict())
    fitted(tmp_path / "stopped", stopped, LightningGrowthCallback(**growth, then="stop"))
    path = tmp_path / "stopped" / f"grown-{MOMENT}.ckpt"
    last = of_file(path)
    fitted(tmp_path / "stopped", last, LightningGrowthCallback(**growth, then="stop"), ckpt_path=path)
    assert last.losses == expected


class Falling(Module):
    """Its validation loss falls as 2 + 3/√step, whose slope d log L / d log C is −½ (1 − 2/L)."""

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", 2 + 3 / (self.trainer.global_step or 1) ** 0.5)


@pytest.mark.parametrize("then", ["go on", "stop"])
def test_it_grows_where_the_slope_of_the_validations_passes(then: Any, tmp_path: Path) -> None:
    model = small()
    module = Falling(model, config=model.config.to_dict())
    callback = LightningGrowthCallback(slope=-0.125, width=2, then=then)
    trainer = fitted(tmp_path, module, callback, max_steps=60, limit_val_batches=1, val_check_interval=1)
    reached = callback.moment.reached
    assert reached is not None and 15 <= reached <= 30  # by the formula 20.25; the rule averages five evaluations
    assert callback.grown_checkpoint == tmp_path / f"grown-{reached}.ckpt"
    assert model.training and all(one.training for one in model.modules())
    assert trainer.global_step == (60 if then == "go on" else reached)
    assert (model.config.n_embd == 24) == (then == "go on")
    grown = torch.load(callback.grown_checkpoint)
    assert grown["global_step"] == reached and grown["hyper_parameters"]["config"]["n_embd"] == 24


def test_a_stopped_run_goes_on_with_its_grown_file_and_does_not_grow_again(tmp_path: Path) -> None:
    model = small()
    module = Module(model, config=model.config.to_dict())
    callback = LightningGrowthCallback(at_step=MOMENT, depth=2, then="stop")
    trainer = fitted(tmp_path, module, callback)
    path = tmp_path / f"grown-{MOMENT}.ckpt"
    assert trainer.global_step == MOMENT and callback.grown_checkpoint == path and model.config.n_layer == 2
    assert ckptgrow.verify(tmp_path / f"before-growth-{MOMENT}.ckpt", path).passed
    again = of_file(path)
    second = LightningGrowthCallback(at_step=MOMENT, depth=2, then="stop")
    assert fitted(tmp_path / "again", again, second, ckpt_path=path).global_step == STEPS
    assert again.losses == went_on(path, range(MOMENT, STEPS)) and second.grown_checkpoint is None


def test_accumulated_gradients_are_not_lost(tmp_path: Path) -> None:
    """It grows where a step has ended, though `at_step` lasts for several batches."""
    first, second = Module(small()), Module(small())
    fitted(tmp_path, first, LightningGrowthCallback(at_step=2, depth=2), accumulate_grad_batches=3, max_steps=4)
    fitted(tmp_path, second, accumulate_grad_batches=3, max_steps=4)
    assert len(first.losses) == 12 and first.losses[:9] == pytest.approx(second.losses[:9], rel=1e-5)
    assert first.losses[9] != pytest.approx(second.losses[9], rel=1e-5)  # new layers have learned


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 2}, 'expected either at_step=N or slope="auto"'),
        ({"width": 2, "at_step": 3, "slope": "auto"}, "expected either at_step=N"),
        ({"width": 2, "at_step": 0}, "at_step=0: expected an optimizer step from 1 on"),
        ({"at_step": 3}, "growth is asked for in no way"),
        ({"at_step": 3, "width": 2, "request": StateRequest(step=1)}, "a trainer's own step stays while it runs"),
    ],
)
def test_options_that_contradict_each_other_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as refusal:
        LightningGrowthCallback(**options)
    assert said in str(refusal.value)
    with pytest.raises(RequestError):
        ckptgrow.TrainerGrowthCallback(**options)


def test_what_cannot_grow_in_fit_is_told_before_it_trains(tmp_path: Path) -> None:
    module = Module(small())
    module.critic = nn.Linear(2, 2)
    with pytest.raises(RequestError, match=r"Module has parameters of its own \(critic.bias, critic.weight\)"):
        fitted(tmp_path, module, LightningGrowthCallback(at_step=2, width=2))
    assert module.losses == []
    averaging = WeightAveraging()
    with pytest.raises(RequestError, match=r"WeightAveraging holds a model .* that would not grow"):
        fitted(tmp_path, Module(small()), LightningGrowthCallback(at_step=2, width=2), averaging)
    silent = Module(small())
    with pytest.raises(RequestError, match='monitor="loss": is not logged in validation, expected one of val_loss'):
        callback = LightningGrowthCallback(slope=-0.1, monitor="loss", width=2)
        fitted(tmp_path, silent, callback, limit_val_batches=1, val_check_interval=1)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["go on", "stop"])
def test_two_processes_grow_together(then: str, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29533", "-m"]
    subprocess.run([*launcher, "tests.helpers.growing_modules", str(tmp_path), then, "ddp"], check=True, timeout=200)
    found = torch.load(tmp_path / "found.pt")
    alone = Module(small())
    fitted(tmp_path / "alone", alone, LightningGrowthCallback(at_step=MOMENT, width=2))
    assert found["grown"] == str(tmp_path / f"grown-{MOMENT}.ckpt")
    if then == "go on":  # both processes see the same batches, whose mean gradient is that of one
        assert found["losses"] == pytest.approx(alone.losses, rel=1e-5)
    else:
        assert found["step"] == MOMENT and found["losses"] == pytest.approx(alone.losses[:MOMENT], rel=1e-5)
        assert_same(
            torch.load(found["grown"])["state_dict"],
            torch.load(tmp_path / "alone" / f"grown-{MOMENT}.ckpt")["state_dict"],
        )


@pytest.mark.slow
def test_a_sharded_fit_stops_with_a_grown_checkpoint(tmp_path: Path) -> None:
    """FSDP2: parameters and moments are DTensors in two processes, and no process could grow its part alone."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29535", "-m"]
    words = ["tests.helpers.growing_modules", str(tmp_path), "go on", "sharded"]
    subprocess.run([*launcher, *words], check=True, timeout=200)
    found, grown = torch.load(tmp_path / "found.pt"), tmp_path / f"grown-{MOMENT}.ckpt"
    assert found["step"] == MOMENT and found["grown"] == str(grown)
    assert ckptgrow.verify(tmp_path / f"before-growth-{MOMENT}.ckpt", grown).passed
    module = of_file(grown)
    fitted(tmp_path / "again", module, LightningGrowthCallback(at_step=MOMENT, width=2), ckpt_path=grown)
    assert len(module.losses) == STEPS - MOMENT and module.lm.config.n_embd == 24
