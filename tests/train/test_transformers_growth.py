"""Growth within one `train` of transformers' Trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import ckptgrow
from ckptgrow import RequestError, StateRequest, TrainerGrowthCallback
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import assert_same
from tests.helpers.trainers import Rows, trainer

STEPS, MOMENT = 8, 4


class Losses(TrainerCallback):
    """Those that the Trainer logs, a row a step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "loss" in kwargs["logs"]:
            self.found.append(kwargs["logs"]["loss"])


def small() -> GPT2LMHeadModel:
    return perturbed_gpt2().float()


def trained(directory: Path, model: GPT2LMHeadModel, callback: Any = None, **more: Any) -> tuple[Trainer, list[float]]:
    losses = Losses()
    resume = more.pop("resume", None)
    made = trainer(directory, model, STEPS, callbacks=[losses, *([] if callback is None else [callback])], **more)
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return made, losses.found


def test_one_train_grows_and_goes_on_as_growth_through_files(tmp_path: Path) -> None:
    model = small()
    callback = TrainerGrowthCallback(at_step=MOMENT, width=2)
    made, losses = trained(tmp_path / "live", model, callback)
    assert made.model is model and model.config.n_embd == 24 and made.state.global_step == STEPS
    before = tmp_path / "live" / f"checkpoint-{MOMENT}"
    kept = GPT2LMHeadModel.from_pretrained(before)
    assert kept.config.n_embd == 12
    done = ckptgrow.width(before, tmp_path / "grown", factor=2)
    assert callback.report is not None
    assert_same(dict(done.record), dict(callback.report.record))
    by_hand, resumed = trained(
        tmp_path / "files", GPT2LMHeadModel.from_pretrained(tmp_path / "grown"), resume=tmp_path / "grown"
    )
    assert len(losses) == STEPS and losses[MOMENT:] == resumed
    assert_same(by_hand.model.state_dict(), model.state_dict())
    assert_same(by_hand.optimizer.state_dict()["state"], made.optimizer.state_dict()["state"])
    assert_same(by_hand.lr_scheduler.state_dict(), made.lr_scheduler.state_dict())
    _, alone = trained(tmp_path / "alone", small())
    assert losses[: MOMENT + 1] == pytest.approx(alone[: MOMENT + 1], abs=1e-4)  # it logs four digits
    log = json.loads((tmp_path / "live" / f"checkpoint-{STEPS}" / "ckptgrow.json").read_text())
    assert log["history"] == [dict(done.record)] and ckptgrow.inspect(tmp_path / "live" / f"checkpoint-{STEPS}").history


def test_a_run_that_goes_on_after_its_growth_does_not_grow_again(tmp_path: Path) -> None:
    model = small()
    _, losses = trained(tmp_path, model, TrainerGrowthCallback(at_step=MOMENT, depth=2))
    saved = tmp_path / "checkpoint-6"  # every sixth step
    second = TrainerGrowthCallback(at_step=MOMENT, depth=2)
    again, rest = trained(tmp_path / "again", GPT2LMHeadModel.from_pretrained(saved), second, resume=saved)
    assert rest == losses[6:] and second.report is None and again.model.config.n_layer == 4
    third = TrainerGrowthCallback(at_step=MOMENT, depth=2)
    before = tmp_path / f"checkpoint-{MOMENT}"
    _, anew = trained(tmp_path / "anew", GPT2LMHeadModel.from_pretrained(before), third, resume=before)
    assert anew == losses[MOMENT:] and third.report is not None


def test_the_groups_of_mup_are_trained_and_follow_the_small_run(tmp_path: Path) -> None:
    growth = {"width": 2, "separate": "none", "request": StateRequest(lr_rule="mup")}
    made, losses = trained(tmp_path / "grown", small(), TrainerGrowthCallback(at_step=MOMENT, **growth))
    assert len(made.optimizer.param_groups) > 2
    _, alone = trained(tmp_path / "alone", small())
    assert losses == pytest.approx(alone, abs=2e-4)


class Rising(TrainerCallback):
    """Multiplies the rates of each step by its share of a rise, by hand."""

    def __init__(self, steps: int) -> None:
        self.steps, self.rates = steps, list[float]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["optimizer"].param_groups
        self.rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= min(1.0, (state.global_step - MOMENT + 1) / self.steps)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for group, rate in zip(kwargs["optimizer"].param_groups, self.rates, strict=True):
            group["lr"] = rate


def test_the_rates_rise_again_in_the_train_after_a_stop_and_after_an_interruption(tmp_path: Path) -> None:
    growth: dict[str, Any] = {"at_step": MOMENT, "width": 2, "request": StateRequest(rewarm=3)}
    made, losses = trained(tmp_path / "live", small(), TrainerGrowthCallback(**growth))
    ckptgrow.width(tmp_path / "live" / f"checkpoint-{MOMENT}", tmp_path / "grown", factor=2)
    small_one = GPT2LMHeadModel.from_pretrained(tmp_path / "grown")
    by_hand, expected = trained(tmp_path / "hand", small_one, Rising(3), resume=tmp_path / "grown")
    assert losses[MOMENT:] == expected
    assert_same(by_hand.model.state_dict(), made.model.state_dict())
    log = json.loads((tmp_path / "live" / f"checkpoint-{STEPS}" / "ckptgrow.json").read_text())
    assert log["rewarm"] == {"start": MOMENT, "steps": 3}
    within = tmp_path / "live" / "checkpoint-6"
    again, _ = trained(
        tmp_path / "again", GPT2LMHeadModel.from_pretrained(within), TrainerGrowthCallback(**growth), resume=within
    )
    assert_same(again.model.state_dict(), made.model.state_dict())
    trained(tmp_path / "stopped", small(), TrainerGrowthCallback(**growth, then="stop"))
    path = tmp_path / "stopped" / f"grown-{MOMENT}"
    second = TrainerGrowthCallback(**growth, then="stop")
    last, _ = trained(tmp_path / "last", GPT2LMHeadModel.from_pretrained(path), second, resume=path)
    assert_same(last.model.state_dict(), made.model.state_dict())


class Products(TrainerCallback):
    """The dtypes of the first layer's products, from some step on."""

    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > MOMENT:
            layer = kwargs["model"].transformer.h[0].mlp.c_fc
            layer.register_forward_hook(lambda *given: self.dtypes.add(given[2].dtype))


@pytest.mark.slow
def test_two_growths_under_bfloat16_autocast(tmp_path: Path) -> None:
    model, seen = small(), Products()
    first, second = TrainerGrowthCallback(at_step=2, width=2), TrainerGrowthCallback(at_step=MOMENT, depth=2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=4, save_steps=6, logging_steps=1,
        bf16=True, report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    grown = Trainer(model, arguments, train_dataset=Rows(), callbacks=[second, first, seen])
    grown.train()
    assert seen.dtypes == {torch.bfloat16} and next(model.parameters()).dtype == torch.float32
    assert (model.config.n_embd, model.config.n_layer) == (24, 4)
    history = json.loads((tmp_path / "checkpoint-6" / "ckptgrow.json").read_text())["history"]
    assert [(one["operator"], one["step"]) for one in history] == [("width", [2, 2]), ("depth", [4, 4])]
    grown.create_model_card()  # it reads the history of losses, which has the growths too


class Falling(Trainer):
    """Its evaluations fall as 2 + 3/√step, whose slope d log L / d log C is −½ (1 − 2/L)."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        found = super().evaluation_loop(*args, **kwargs)
        found.metrics["eval_loss"] = 2 + 3 / self.state.global_step**0.5
        return found


@pytest.mark.parametrize("then", ["go on", pytest.param("stop", marks=pytest.mark.slow)])
def test_it_grows_where_the_slope_of_the_evaluations_passes(then: Any, tmp_path: Path) -> None:
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=40, per_device_train_batch_size=4, eval_strategy="steps", eval_steps=1,
        save_strategy="no", logging_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    model = small()
    callback = TrainerGrowthCallback(slope=-0.125, depth=2, then=then)
    rows = torch.utils.data.Subset(Rows(), range(4))
    made = Falling(model, arguments, train_dataset=Rows(), eval_dataset=rows, callbacks=[callback])
    made.train()
    reached = callback.moment.reached
    assert reached is not None and 15 <= reached <= 30  # by the formula 20.25; the rule averages five evaluations
    assert (tmp_path / f"checkpoint-{reached}").is_dir()
    if then == "go on":
        assert made.state.global_step == 40 and model.config.n_layer == 4 and callback.grown_checkpoint is None
    else:
        assert made.state.global_step == reached and model.config.n_layer == 2
        assert callback.grown_checkpoint == tmp_path / f"grown-{reached}"
        assert ckptgrow.verify(tmp_path / f"checkpoint-{reached}", callback.grown_checkpoint).passed


def test_a_stopped_run_goes_on_with_its_grown_directory(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "whole", small(), TrainerGrowthCallback(at_step=MOMENT, depth=2))
    callback = TrainerGrowthCallback(at_step=MOMENT, depth=2, then="stop")
    made, losses = trained(tmp_path / "stopped", small(), callback)
    assert made.state.global_step == MOMENT and callback.grown_checkpoint == tmp_path / "stopped" / "grown-4"
    grown = GPT2LMHeadModel.from_pretrained(callback.grown_checkpoint)
    second = TrainerGrowthCallback(at_step=MOMENT, depth=2, then="stop")
    again, rest = trained(tmp_path / "again", grown, second, resume=callback.grown_checkpoint)
    assert losses + rest == whole and again.state.global_step == STEPS and second.grown_checkpoint is None


def test_the_small_runs_best_checkpoint_is_forgotten(tmp_path: Path) -> None:
    model = small()
    made = trainer(tmp_path, model, 6, callbacks=[TrainerGrowthCallback(at_step=MOMENT, width=2)], eval_dataset=Rows())
    made.args.eval_strategy, made.args.eval_steps, made.args.save_steps = "steps", 2, 2
    made.args.load_best_model_at_end, made.args.metric_for_best_model = True, "loss"
    made.args.greater_is_better = True  # of falling losses the first
    made.train()
    assert str(made.state.best_model_checkpoint).endswith("checkpoint-6") and model.config.n_embd == 24


def test_what_it_cannot_do_is_told(tmp_path: Path) -> None:
    made = trainer(tmp_path, small(), 4, callbacks=[TrainerGrowthCallback(at_step=2, width=2)], eval_dataset=Rows())
    made.args.save_strategy = "best"
    with pytest.raises(RequestError, match="save_strategy is best, expected one that saves on request"):
        made.train()
    callback = TrainerGrowthCallback(slope="auto", monitor="eval_los", width=2)
    assert callback.moment.tau == -0.0475
    made = trainer(tmp_path, small(), 4, callbacks=[callback], eval_dataset=Rows())
    made.args.eval_strategy, made.args.eval_steps = "steps", 1
    with pytest.raises(RequestError, match=r'monitor="eval_los": is not evaluated, expected one of .*eval_loss'):
        made.train()


@pytest.mark.slow
def test_on_several_devices_it_stops_with_a_grown_checkpoint(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29534", "-m"]
    words = ["tests.helpers.growing_trainer", str(tmp_path), str(MOMENT)]
    subprocess.run([*launcher, *words], check=True, timeout=200)
    for process in (0, 1):
        found = json.loads((tmp_path / f"found-{process}.json").read_text())
        assert found == {"step": MOMENT, "grown": str(tmp_path / f"grown-{MOMENT}"), "processes": 2}
    grown = tmp_path / f"grown-{MOMENT}"
    assert ckptgrow.verify(tmp_path / f"checkpoint-{MOMENT}", grown).passed
    again, losses = trained(tmp_path / "again", GPT2LMHeadModel.from_pretrained(grown), resume=grown)
    assert again.state.global_step == STEPS and len(losses) == STEPS - MOMENT
