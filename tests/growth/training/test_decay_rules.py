"""Weight decay under `mup` by the formulas of the papers that its rules come from; what `keep` says of the pace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import OptimizerError, RequestError
from tests.helpers.families import perturbed
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import save_lightning, trained_checkpoint
from tests.helpers.optimizers import stored

RATE, DECAY = 2e-3, 0.1
RULES = {"trajectory": 1.0, "sqrt": 0.5, "keep": 0.0}


def small_run(path: Path, kind: Any = torch.optim.AdamW, **options: Any) -> Path:
    return trained_checkpoint(path, perturbed_gpt2(), lambda parameters: kind(parameters, lr=RATE, **options))


def options_of(path: Path, name: str) -> dict[str, Any]:
    (state,) = stored(path)
    return next(group for group in state["param_groups"] if f"model.{name}" in group["param_names"])


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_matrices_decay_by_the_rules_power_of_the_width(tmp_path: Path, rule: Any, factor: int) -> None:
    """With η ∝ 1/d: λ ∝ d keeps η λ (2512.22382), λ ∝ √d is 2510.15262's; what is like a vector keeps its λ."""
    source = small_run(tmp_path / "small.ckpt", weight_decay=DECAY)
    request = StateRequest(lr_rule="mup", wd_rule=rule)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, separate="none", request=request)
    matrix = options_of(tmp_path / "grown.ckpt", "transformer.h.0.mlp.c_fc.weight")
    assert matrix["lr"] == pytest.approx(RATE / factor, rel=1e-12)
    assert matrix["weight_decay"] == pytest.approx(DECAY * factor ** RULES[rule], rel=1e-12)
    embedding = options_of(tmp_path / "grown.ckpt", "transformer.wte.weight")
    assert (embedding["lr"], embedding["weight_decay"]) == (RATE, DECAY)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1, steps=2))
    assert report.passed, report.sentences
    assert report.trajectory is not None and report.trajectory.judged == (rule == "trajectory")


@pytest.mark.parametrize("lie", [{"wd_rule": "keep"}, {"wd_rule": "trajectory"}, {"lr_rule": "keep"}], ids=str)
def test_another_rule_than_the_recorded_one_is_named(tmp_path: Path, lie: dict[str, str]) -> None:
    source = small_run(tmp_path / "small.ckpt", weight_decay=DECAY)
    ckptgrow.width(source, tmp_path / "grown.ckpt", request=StateRequest(lr_rule="mup", wd_rule="sqrt"))
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tree["ckptgrow"]["history"][-1].update(lie)
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(source, tmp_path / "tampered.ckpt", settings=Settings(batches=1))
    assert not report.passed
    assert any("weight_decay of group" in one or "lr rule" in one for one in report.sentences), report.sentences


def test_a_rule_needs_mup_and_decoupled_decay(tmp_path: Path) -> None:
    source = small_run(tmp_path / "small.ckpt", weight_decay=DECAY)
    with pytest.raises(RequestError, match='expected lr_rule="mup"'):
        ckptgrow.width(source, tmp_path / "grown.ckpt", request=StateRequest(wd_rule="sqrt"))
    other = small_run(tmp_path / "other.ckpt", torch.optim.SGD, weight_decay=DECAY)
    with pytest.raises(OptimizerError, match=r"SGD has its weight decay in the gradient.*wd_rule="):
        ckptgrow.width(other, tmp_path / "grown.ckpt", request=StateRequest(lr_rule="mup", wd_rule="sqrt"))
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize(
    ("kind", "growth", "request_", "is_told"),
    [
        (torch.optim.AdamW, {"factor": 3}, StateRequest(), True),
        (torch.optim.AdamW, {"factor": 3}, StateRequest(lr_rule="mup"), False),
        (torch.optim.AdamW, {"ffn": 30, "how": "pad"}, StateRequest(), False),
        (torch.optim.SGD, {"factor": 3}, StateRequest(), False),
    ],
)
def test_kept_rates_say_that_the_function_moves_faster(
    tmp_path: Path, kind: Any, growth: dict[str, Any], request_: StateRequest, is_told: bool
) -> None:
    """Only where updates have a size of their own: AdamW's, by as much as a matrix reads copies."""
    model = perturbed_gpt2()
    optimizer = kind(model.parameters(), lr=RATE)
    source = save_lightning(tmp_path / "small.ckpt", model, [optimizer])
    done = ckptgrow.width(source, tmp_path / "grown.ckpt", request=request_, **growth)
    assert any("up to 3 times as fast" in str(note) for note in done.notes) == is_told


def table_of(name: str, width: int, depth: int) -> tuple[float, float, float]:
    """Complete(d)P's η, λ and ε at α = 1 over the small model's (2512.22382), its multipliers put into the weights.

    A weight W that stands as W · c moves c times as far at the same η, and its gradient is 1/c of it: the head has
    c = 1/width; what writes the stream has c = 1/depth.
    """
    writes = any(part in name for part in ("o_proj", "down_proj"))
    in_layer = ".layers." in name
    if "lm_head" in name:
        return 1 / width, width, 1.0
    rate = (1 / width if name.endswith("proj.weight") else 1.0) / (depth if writes else 1)
    epsilon = 1 / width / (depth if in_layer and not writes else 1)
    return rate, 1 / rate, epsilon


@pytest.mark.parametrize(("width", "depth"), [(2, 1), (3, 1), (1, 2), (1, 3)])
def test_rates_are_those_of_completed_p(tmp_path: Path, width: int, depth: int) -> None:
    """Of a Llama with a head of its own; key heads grow with the width, so that no matrix has uneven copies."""
    model = perturbed("llama")
    source = trained_checkpoint(
        tmp_path / "small.ckpt", model, lambda one: torch.optim.AdamW(one, lr=RATE, weight_decay=DECAY, eps=1e-6)
    )
    request = StateRequest(lr_rule="completed-p")
    if width > 1:
        ckptgrow.width(source, tmp_path / "grown.ckpt", factor=width, request=request)
    else:
        ckptgrow.depth(source, tmp_path / "grown.ckpt", factor=depth, new="ode", request=request)
    (state,) = stored(tmp_path / "grown.ckpt")
    for group in state["param_groups"]:
        for name in group["param_names"]:
            found = group["lr"] / RATE, group["weight_decay"] / DECAY, group["eps"] / 1e-6
            assert found == pytest.approx(table_of(name, width, depth), rel=1e-12), name
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1, steps=2))
    assert not [one for one in report.sentences if "lr rule" in one or " of group" in one], report.sentences


def test_completed_p_has_its_own_decay(tmp_path: Path) -> None:
    source = small_run(tmp_path / "small.ckpt", weight_decay=DECAY)
    request = StateRequest(lr_rule="completed-p", wd_rule="sqrt")
    with pytest.raises(RequestError, match='expected lr_rule="mup"'):
        ckptgrow.width(source, tmp_path / "grown.ckpt", request=request)
