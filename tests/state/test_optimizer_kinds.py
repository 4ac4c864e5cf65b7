"""Growth, verification and inspection call every optimizer by the same name, whatever library wrote its groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.growth.training.optimizer_table import ROWS, row_of
from ckptgrow.state.opening import open_state
from ckptgrow.state.optimizer_kinds import KINDS, keys_in
from ckptgrow.verification.optimizers import RULES, step_rule
from tests.helpers.gpt2 import token_batches, train
from tests.helpers.lightning_files import save_lightning
from tests.helpers.optimizers import CASES, tiny_gpt2

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
APEX = {**ADAM, "bias_correction": True}
APEX_LAMB = {**APEX, "grad_averaging": True, "max_grad_norm": 1.0, "step": 2}
TORCH_2_0 = {"foreach": None, "maximize": False, "capturable": False, "differentiable": False, "fused": None}
TIMM_LAMB = {"trust_clip": False, "always_adapt": False, "caution": False, "decoupled_decay": False, "foreach": None}

# What libraries that are not installed write beside Adam's records; the sources are the files named here.
WRITTEN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "deepspeed/ops/adam/cpu_adam.py": ("DeepSpeedCPUAdam", {**APEX, "amsgrad": False}),
    "deepspeed/ops/adam/fused_adam.py": ("FusedAdam", APEX),
    "apex/optimizers/fused_adam.py": ("FusedAdam", {**APEX, "step": 2}),
    "deepspeed/ops/lamb/fused_lamb.py": ("LAMB", {**APEX, "max_grad_norm": 0.0, "max_coeff": 10.0, "min_coeff": 0.01}),
    "apex/optimizers/fused_lamb.py": ("LAMB", APEX_LAMB),
    "timm/optim/lamb.py": ("LAMB", {**APEX_LAMB, **TIMM_LAMB}),
    "torch/optim/adamw.py of torch 2.0": ("AdamW", {**ADAM, "amsgrad": False, **TORCH_2_0}),
    "transformers/optimization.py of 4.20": ("AdamW of transformers", {**ADAM, "correct_bias": True}),
    "bitsandbytes/optim/adamw.py": (
        "AdamW of bitsandbytes",
        {**ADAM, "alpha": 0.0, "t_alpha": None, "t_beta3": None},
    ),
}
VARIANTS = ("foreach", "fused", "capturable", "differentiable")
TAKES = {"fused": ("Adam", "AdamW", "Adagrad", "SGD"), "capturable": ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")}


def names(path: Path) -> dict[str, str]:
    """What each of the three calls the optimizer of a checkpoint."""
    state = open_state(path).optimizers[0]
    group = state.groups[0]
    rule, inspected = step_rule(group.options, keys_in(state, group)), ckptgrow.inspect(path).optimizer
    assert rule is not None and inspected is not None
    return {
        "growth": row_of(state, group).name,
        "verify": rule.name,
        "inspect": str(inspected["name"]).removesuffix(" (amsgrad)"),
    }


def saved(path: Path, build: Any, change: Mapping[str, Any] | None = None) -> Path:
    """A checkpoint of two steps, its groups with some more options."""
    model = tiny_gpt2()
    optimizer = build(model.parameters())
    train(model, optimizer, token_batches(2))
    for group in optimizer.param_groups:
        group.update(change or {})
    return save_lightning(path, model, [optimizer], global_step=2)


@pytest.mark.parametrize("case", CASES)
def test_an_optimizer_has_one_name(tmp_path: Path, case: str) -> None:
    found = names(saved(tmp_path / "a.ckpt", lambda parameters: CASES[case].build(parameters, 1e-3)))
    assert set(found.values()) == {case.partition(",")[0]}


@pytest.mark.parametrize("source", WRITTEN)
def test_so_has_one_of_another_library(tmp_path: Path, source: str) -> None:
    name, options = WRITTEN[source]
    path = saved(tmp_path / "a.ckpt", torch.optim.AdamW)
    tree = torch.load(path, weights_only=True)
    for group in tree["optimizer_states"][0]["param_groups"]:
        numbers = group["params"]
        group.clear()
        group.update(options, params=numbers)
    torch.save(tree, path)
    assert set(names(path).values()) == {name}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "SGD"])
def test_how_steps_are_computed_changes_no_name(tmp_path: Path, case: str, variant: str) -> None:
    def build(parameters: Any) -> torch.optim.Optimizer:
        return CASES[case].build(parameters, 1e-3)

    path = saved(tmp_path / "a.ckpt", build, {variant: True} if case in TAKES.get(variant, (case,)) else None)
    assert set(names(path).values()) == {case}


def test_an_adamax_of_old_torch_is_known_by_its_records(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", torch.optim.Adamax)
    tree = torch.load(path, weights_only=True)
    for group in tree["optimizer_states"][0]["param_groups"]:
        del group["capturable"]
    torch.save(tree, path)
    assert set(names(path).values()) == {"Adamax"}


def test_each_kind_has_one_rule_of_growth_and_another_of_verification() -> None:
    kinds = sorted(kind.name for kind in KINDS)
    assert len(set(kinds)) == len(kinds)
    assert sorted(row.name for row in ROWS) == sorted(rule.name for rule in RULES) == kinds
