"""Optimizers of other packages: points beside the weights, clocks of whole groups, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dadaptation import DAdaptAdam
from prodigyopt import Prodigy
from pytorch_optimizer import Adan, Lamb
from schedulefree import AdamWScheduleFree

import ckptgrow
from ckptgrow.errors import OptimizerError
from ckptgrow.growth.request import StateRequest
from tests.helpers.gpt2 import largest_logit_difference, token_batches, train
from tests.helpers.lightning_files import load_model, save_lightning
from tests.helpers.optimizers import CASES, WhatIsNew, check_what_is_new, resumed, stored, tiny_gpt2
from tests.helpers.state_requests import MUP

OF_POINTS = ("AdamWScheduleFree", "SGDScheduleFree", "Prodigy")


def trained(tmp_path: Path, build: Any) -> tuple[Any, torch.optim.Optimizer, Path]:
    model = tiny_gpt2()
    optimizer = build(model.parameters())
    train(model, optimizer, token_batches(6))
    return model, optimizer, save_lightning(tmp_path / "small.ckpt", model, [optimizer], global_step=6)


@pytest.mark.parametrize("separate", ["none", "noise", "split"])
def test_the_point_where_schedule_free_training_goes_on_is_that_of_the_small_model(
    tmp_path: Path, separate: Any
) -> None:
    case = CASES["AdamWScheduleFree"]
    small, optimizer, source = trained(tmp_path, lambda parameters: case.build(parameters, case.lr))
    ckptgrow.width(source, tmp_path / "grown.ckpt", separate=separate)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    assert largest_logit_difference(small, grown) <= 1e-12
    (state,) = stored(tmp_path / "grown.ckpt")
    for one in (optimizer, resumed(grown, state, case.build, case.lr)):
        one.train()  # pyright: ignore[reportAttributeAccessIssue]
    assert largest_logit_difference(small, grown) <= 1e-12
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt")
    assert report.passed, report.sentences


@pytest.mark.parametrize("name", OF_POINTS)
@pytest.mark.parametrize("growth", ["padded", "deeper"])
def test_points_beside_the_weights_follow_every_growth(tmp_path: Path, name: str, growth: WhatIsNew) -> None:
    case = CASES[name]
    _, _, source = trained(tmp_path, lambda parameters: case.build(parameters, case.lr))
    check_what_is_new(source, tmp_path / "grown.ckpt", growth)


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "Adan", "DAdaptAdam", "LAMB"])
def test_a_moved_step_moves_the_count_of_steps_of_a_group(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    _, _, source = trained(tmp_path, lambda parameters: case.build(parameters, case.lr))
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(step=3))
    counts = [group.get("k", group.get("step")) for group in stored(tmp_path / "grown.ckpt")[0]["param_groups"]]
    assert counts == [3]
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt")
    assert report.passed, report.sentences
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    group = tree["optimizer_states"][0]["param_groups"][0]
    clock = "k" if "k" in group else "step"
    group[clock] = 4
    torch.save(tree, tmp_path / "grown.ckpt")
    sentences = ckptgrow.verify(source, tmp_path / "grown.ckpt").sentences
    assert any(f"{clock} of group 0" in sentence for sentence in sentences), sentences


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Prodigy, r"no lr rule known for Prodigy: it takes one learning rate"),
        (lambda parameters: Lamb(parameters, weight_decay=0.1, rectify=True), r"LAMB with rectify bounds"),
        (
            lambda parameters: Lamb(parameters, weight_decay=0.1, weight_decouple=False),
            r"LAMB with weight decay in its",
        ),
        (lambda parameters: DAdaptAdam(parameters, weight_decay=0.1), r"DAdaptAdam with weight decay in the gradient"),
    ],
)
def test_mup_names_what_has_no_exact_rule(tmp_path: Path, build: Any, message: str) -> None:
    _, _, source = trained(tmp_path, build)
    with pytest.raises(OptimizerError, match=message):
        ckptgrow.width(source, tmp_path / "grown.ckpt", how="diagonal", noise=0, request=MUP)
    assert not (tmp_path / "grown.ckpt").exists()
    ckptgrow.width(source, tmp_path / "grown.ckpt", how="diagonal", noise=0)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt")
    assert report.passed, report.sentences


def test_statistics_of_every_nth_entry_are_refused(tmp_path: Path) -> None:
    _, _, source = trained(tmp_path, lambda parameters: Prodigy(parameters, slice_p=2))
    with pytest.raises(OptimizerError, match=r"numbers of .*slice_p=1.*reset=\("):
        ckptgrow.width(source, tmp_path / "grown.ckpt")


def test_a_new_layer_of_adan_begins_as_adan_does(tmp_path: Path) -> None:
    _, _, source = trained(tmp_path, lambda parameters: Adan(parameters, lr=1e-3))
    ckptgrow.depth(source, tmp_path / "grown.ckpt", place="append")
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    optimizer = resumed(grown, state, lambda parameters, lr: Adan(parameters, lr=lr), 1e-3)
    new = [one for name, one in grown.named_parameters() if one not in optimizer.state]
    assert len(new) == len([name for name, _ in grown.named_parameters() if ".h.1." in name])
    train(grown, optimizer, token_batches(1))
    assert not any(bool(optimizer.state[one]["exp_avg_diff"].any()) for one in new)  # no gradient came before


def test_steps_of_a_package_that_is_missing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, source = trained(tmp_path, AdamWScheduleFree)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=MUP)
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(OptimizerError, match=r"schedulefree\.AdamWScheduleFree, expected this package; install it"):
        ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=ckptgrow.Settings(batches=2, steps=3))
