"""`verify` judges every optimizer's state, rates and steps, and sees what was tampered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.growth.request import StateRequest
from tests.helpers.gpt2 import token_batches, train
from tests.helpers.lightning_files import save_lightning
from tests.helpers.optimizers import ALL, CASES, tiny_gpt2
from tests.helpers.two_optimizers import Both, split

STEPS = ckptgrow.Settings(batches=2, steps=5)


def grown(tmp_path: Path, name: str, rule: Any = None, **width: Any) -> tuple[Path, Path]:
    case = CASES[name]
    model, source, target = tiny_gpt2(), tmp_path / "small.ckpt", tmp_path / "grown.ckpt"
    optimizer = case.build(model.parameters(), case.lr)
    train(model, optimizer, token_batches(7))
    save_lightning(source, model, [optimizer], global_step=7)
    request = StateRequest(lr_rule=rule) if rule else case.rules
    ckptgrow.width(source, target, how=width.pop("how", "tile"), noise=0, request=request, **width)
    return source, target


def named_by_inspect(path: Path) -> str:
    optimizer = ckptgrow.inspect(path).optimizer
    assert optimizer is not None
    return optimizer["name"].partition(" (")[0]


@pytest.mark.parametrize("name", ALL)
def test_a_grown_run_verifies_with_its_steps(tmp_path: Path, name: str) -> None:
    source, target = grown(tmp_path, name)
    assert named_by_inspect(target) == name.partition(",")[0]
    takes_steps = name not in ("SophiaG", "Prodigy")  # what a file says of these two is not enough for their steps
    report = ckptgrow.verify(source, target, settings=STEPS if takes_steps else ckptgrow.Settings(batches=2))
    assert report.passed, report.sentences
    assert report.structure.lr_rule == CASES[name].rules.lr_rule
    if name != "SGD" and takes_steps:  # it has no state
        assert report.trajectory is not None and report.trajectory.judged
        assert report.trajectory.max_abs_loss_diff <= 1e-10
    if not name.startswith("SGD") or "momentum" in name:
        assert report.moments is not None and report.moments.num_compared >= 16


@pytest.mark.parametrize("name", ["Adamax", "RMSprop, centered with momentum", "Adafactor of transformers, averaged"])
def test_with_kept_rates_the_state_verifies_too(tmp_path: Path, name: str) -> None:
    source, target = grown(tmp_path, name, rule="keep", how="diagonal")
    report = ckptgrow.verify(source, target)
    assert report.passed, report.sentences
    assert report.structure.lr_rule == "keep"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NAdam", "mu_product"),
        ("Adamax", "exp_inf"),
        ("Adagrad", "sum"),
        ("RMSprop", "square_avg"),
        ("RMSprop, centered with momentum", "momentum_buffer"),
        ("Lion", "exp_avg"),
        ("AdamWScheduleFree", "z"),
        ("SGDScheduleFree", "z"),
        ("Prodigy", "p0"),
        ("Prodigy", "s"),
        ("DAdaptAdam", "exp_avg"),
        ("Adan", "exp_avg_diff"),
        ("Adan", "previous_grad"),
        ("SophiaG", "hessian"),
        ("LAMB", "trust_ratio"),
        ("Adafactor", "row_var"),
        ("Adafactor", "col_var"),
        ("Adafactor of transformers", "exp_avg_sq_row"),
        ("Adafactor of transformers", "RMS"),
        ("Adafactor of transformers, averaged", "exp_avg"),
    ],
)
def test_a_tampered_entry_is_named(tmp_path: Path, name: str, key: str) -> None:
    source, target = grown(tmp_path, name)
    tree = torch.load(target, weights_only=True)
    record = next(one for one in tree["optimizer_states"][0]["state"].values() if key in one)
    record[key] = record[key] * 1.01
    torch.save(tree, target)
    report = ckptgrow.verify(source, target)
    assert not report.passed
    assert any(key in sentence for sentence in report.sentences), report.sentences


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("AdamWScheduleFree", "weight_sum"),
        ("AdamWScheduleFree", "k"),
        ("DAdaptAdam", "layer_scale"),
        ("DAdaptAdam", "d"),
        ("Prodigy", "d_max"),
        ("SophiaG", "rho"),
        ("LAMB", "lr"),
        ("Adagrad", "eps"),
        ("Lion", "lr"),
        ("RMSprop", "lr"),
        ("Adafactor, bounded", "eps"),
        ("SGD, momentum", "lr"),
    ],
)
def test_a_tampered_option_is_named(tmp_path: Path, name: str, option: str) -> None:
    source, target = grown(tmp_path, name)
    tree = torch.load(target, weights_only=True)
    group = tree["optimizer_states"][0]["param_groups"][-1]
    value = group[option]
    group[option] = (value[0], value[1] * 1.01) if isinstance(value, tuple) else value * 1.01
    torch.save(tree, target)
    report = ckptgrow.verify(source, target)
    assert not report.passed
    assert any(option in sentence for sentence in report.sentences), report.sentences


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_beside_adamw_verifies(tmp_path: Path, adjust: str) -> None:
    model, source, target = tiny_gpt2(), tmp_path / "small.ckpt", tmp_path / "grown.ckpt"
    optimizers = split(model, 1e-3, adjust)
    train(model, Both(optimizers), token_batches(4))  # pyright: ignore[reportArgumentType]
    save_lightning(source, model, optimizers)
    ckptgrow.width(source, target, noise=0, request=StateRequest(lr_rule="mup"))
    report = ckptgrow.verify(source, target, settings=STEPS)
    assert report.passed, report.sentences
    assert report.structure.lr_rule == "mup"
    assert report.trajectory is not None and report.trajectory.max_abs_loss_diff <= 2e-3  # Muon's own bfloat16


@pytest.mark.parametrize("name", ["Adafactor", "Adafactor of transformers"])
def test_sizes_of_rounded_weights_are_judged_by_their_rounding(tmp_path: Path, name: str) -> None:
    case, model = CASES[name], tiny_gpt2().float()
    source, target = tmp_path / "small.ckpt", tmp_path / "grown.ckpt"
    optimizer = case.build(model.parameters(), case.lr)
    train(model, optimizer, token_batches(4))
    save_lightning(source, model, [optimizer])
    for how, noise in (("tile", 0), ("diagonal", 0), ("diagonal", 1.0)):
        rules = StateRequest(lr_rule="mup", force=True)
        ckptgrow.width(source, target, factor=3, how=how, noise=noise, request=rules)  # pyright: ignore[reportArgumentType]
        groups = torch.load(target, weights_only=True)["optimizer_states"][0]["param_groups"]
        assert (len({group["lr"] for group in groups}) == 1) == (how == "tile")
        report = ckptgrow.verify(source, target)
        assert report.passed, report.sentences
