"""Adafactor of torch and of transformers in every family: factors, sizes of weights, trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.optimization import Adafactor as HfAdafactor

import ckptgrow
from ckptgrow.errors import OptimizerError
from ckptgrow.growth.request import StateRequest
from tests.helpers.families import CASES, FIRST, UNDECAYED, UNWIDENED, WIDER, batches, loaded, perturbed, trained
from tests.helpers.lightning_files import save_lightning

# Where gradients are nothing but rounding (key biases under softmax), ε decides: small beside others, large beside it.
KINDS: dict[str, Any] = {
    "torch": lambda groups, lr: torch.optim.Adafactor(groups, lr=lr, eps=(1e-10, 1e-3), weight_decay=0.0),
    "transformers": lambda groups, lr: HfAdafactor(
        groups, lr=lr, relative_step=False, clip_threshold=1.0, eps=(1e-20, 1e-3), weight_decay=0.0
    ),
    "transformers, averaged": lambda groups, lr: HfAdafactor(
        groups, lr=lr, relative_step=False, clip_threshold=1.0, eps=(1e-20, 1e-3), weight_decay=0.0, beta1=0.9
    ),
}
GROWING = [case for case in FIRST if case in WIDER]
EACH = [
    pytest.param(case, kind, marks=() if case in ("vit", "gemma", "mixtral") else pytest.mark.slow)
    for case in GROWING
    for kind in KINDS
]
OFF = 1e-9


def grown_pair(tmp_path: Path, case: str, kind: str, lr: float, **growth: Any) -> tuple[Any, Any, Path, Path]:
    model = perturbed(case)
    optimizer = KINDS[kind](model.named_parameters(), lr)
    trained(model, optimizer, batches(5))
    source, target = save_lightning(tmp_path / "small.ckpt", model, [optimizer]), tmp_path / "grown.ckpt"
    request = StateRequest(**growth.pop("request", {}))
    if growth.pop("deeper", False):
        ckptgrow.depth(source, target, request=request, **growth)
    else:
        ckptgrow.width(source, target, request=request, **growth)
    return model, optimizer, source, target


def anew(model: torch.nn.Module, state: Any, kind: str, lr: float) -> torch.optim.Optimizer:
    """The optimizer over the stored groups, with nothing seen."""
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied head has two names
    groups = [
        {
            **{key: value for key, value in group.items() if key not in ("params", "param_names")},
            "params": [(name, parameters[name.removeprefix("model.")]) for name in group["param_names"]],
        }
        for group in state["param_groups"]
    ]
    return KINDS[kind](groups, lr)


def records(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    return {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}


def product(record: dict[str, Any]) -> torch.Tensor:
    """The second moment that two factors stand for."""
    if "row_var" in record:
        row, column = record["row_var"], record["col_var"]
    else:
        row, column = record["exp_avg_sq_row"].unsqueeze(-1), record["exp_avg_sq_col"].unsqueeze(-2)
    mean = row.mean(-2, keepdim=True)
    return row @ column / torch.where(mean == 0, 1.0, mean)


@pytest.mark.parametrize(("case", "kind"), EACH)
def test_the_state_is_what_the_optimizer_builds_in_the_grown_model(tmp_path: Path, case: str, kind: str) -> None:
    how: Any = "tile" if kind == "torch" else "diagonal"
    _, _, source, target = grown_pair(tmp_path, case, kind, 0.0, noise=0, how=how, factor=2)
    model, tree = loaded(target)
    state = tree["optimizer_states"][0]
    real, found = anew(model, state, kind, 0.0), anew(model, state, kind, 0.0)
    trained(model, real, batches(5))
    found.load_state_dict(state)
    expected = records(model, real)
    for name, record in records(model, found).items():
        assert record.keys() == expected[name].keys()
        for key, value in record.items():
            wanted = torch.as_tensor(expected[name][key]).double()
            scale = max(float(wanted.abs().max()), 1e-10)  # gradients of rounding alone
            error = float((torch.as_tensor(value).double() - wanted).abs().max()) / scale
            assert error <= OFF, (name, key, error)
    report = ckptgrow.verify(source, target)
    assert report.passed, report.sentences


@pytest.mark.parametrize(("case", "kind"), EACH)
def test_under_mup_tiled_weights_keep_the_trajectory_or_are_refused(tmp_path: Path, case: str, kind: str) -> None:
    growth: dict[str, Any] = {"noise": 0, "how": "tile", "factor": 2, "request": {"lr_rule": "mup"}}
    tied = CASES[case][1].get("tie_word_embeddings", "gemma" in case)
    if CASES[case][0] in UNDECAYED and tied:
        with pytest.raises(OptimizerError, match=r'stored without its 1.*lr_rule="keep"'):
            grown_pair(tmp_path, case, kind, 1e-2, **growth)
        return
    small, optimizer, _, target = grown_pair(tmp_path, case, kind, 1e-2, **growth)
    model, tree = loaded(target)
    state = tree["optimizer_states"][0]
    other = anew(model, state, kind, 0.0)
    other.load_state_dict(state)
    samples = batches(15, seed=3)
    losses = trained(small, optimizer, samples), trained(model, other, samples)
    assert max(abs(one - two) for one, two in zip(*losses, strict=True)) <= 1e-8


@pytest.mark.sampled(12)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["gemma", "llama", "mixtral", "gpt2"])
@pytest.mark.parametrize(
    "growth",
    [
        {"ffn": 33, "noise": 0},
        {"factor": 3, "noise": 1.0},
        {"hidden": 24, "how": "pad"},
        {"hidden": 24, "ffn": 29, "how": "pad", "fresh_moments": "mean"},
        {"deeper": True},
        {"deeper": True, "new": "zero-norm"},
    ],
    ids=lambda growth: " ".join(f"{key} {value}" for key, value in growth.items()),
)
def test_every_operator_verifies(tmp_path: Path, kind: str, case: str, growth: dict[str, Any]) -> None:
    growth = dict(growth)
    if fresh := growth.pop("fresh_moments", None):
        growth["request"] = {"fresh_moments": fresh}
    _, _, source, target = grown_pair(tmp_path, case, kind, 1e-3, **growth)
    report = ckptgrow.verify(source, target)
    assert report.passed, report.sentences


@pytest.mark.sampled(8)
@pytest.mark.parametrize("kind", ["torch", "transformers"])
@pytest.mark.parametrize(
    "growth",
    [
        {"ffn": 33, "noise": 0},
        {"factor": 3, "noise": 0},
        {"hidden": 24, "how": "pad"},
        {"hidden": 24, "ffn": 29, "how": "pad", "request": {"fresh_moments": "mean"}},
    ],
    ids=lambda growth: " ".join(f"{key} {value}" for key, value in growth.items()),
)
@pytest.mark.parametrize("case", ["gemma", "vit", "mixtral", pytest.param("phi3", marks=pytest.mark.slow)])
def test_factors_stand_for_what_adams_second_moment_would_be(
    tmp_path: Path, case: str, growth: dict[str, Any], kind: str
) -> None:
    small, optimizer, _, target = grown_pair(tmp_path, case, kind, 0.0, **growth)
    model, tree = loaded(target)
    state = tree["optimizer_states"][0]
    other = anew(model, state, kind, 0.0)
    other.load_state_dict(state)
    twin = torch.optim.AdamW(small.named_parameters(), lr=0.0)
    trained(small, twin, batches(5))
    for name, record in records(small, optimizer).items():
        if not {"exp_avg_sq", "variance"} & record.keys():
            twin.state[small.get_parameter(name)]["exp_avg_sq"] = product(record)
    source = save_lightning(tmp_path / "adam.ckpt", small, [twin])
    asked: dict[str, Any] = {**growth, "request": StateRequest(**growth.get("request", {}))}
    ckptgrow.width(source, tmp_path / "adam-grown.ckpt", **asked)
    adam = torch.optim.AdamW(model.named_parameters())
    adam.load_state_dict(loaded(tmp_path / "adam-grown.ckpt")[1]["optimizer_states"][0])
    expected, num_checked = records(model, adam), 0
    for name, record in records(model, other).items():
        if "RMS" in record:
            weight = model.get_parameter(name).detach()
            assert float(record["RMS"]) == pytest.approx(float(weight.square().mean().sqrt()), rel=1e-6), name
        if not {"exp_avg_sq", "variance"} & record.keys() and "patch_embeddings" not in name:
            found, wanted = product(record), expected[name]["exp_avg_sq"]
            error = float((found - wanted).abs().max() / wanted.abs().max())
            assert error <= OFF, (name, error)
            num_checked += 1
    assert num_checked >= 8


def test_a_bound_that_hides_the_ratio_of_learning_rates_is_refused(tmp_path: Path) -> None:
    mup: dict[str, Any] = {"request": {"lr_rule": "mup"}, "noise": 0}
    with pytest.raises(OptimizerError, match=r'bounded by 1/√step.*lr_rule="keep"'):
        grown_pair(tmp_path, "llama", "torch", 0.6, how="diagonal", **mup)
    grown_pair(tmp_path, "llama", "torch", 0.6, how="tile", **mup)


@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_beside_uneven_units_verifies(tmp_path: Path, kind: str) -> None:
    _, _, source, target = grown_pair(tmp_path, "vit", kind, 1e-3, ffn=33, noise=0)
    report = ckptgrow.verify(source, target, settings=ckptgrow.Settings(batches=2))
    assert report.passed, report.sentences


def test_families_that_cannot_grow_by_a_factor_are_few() -> None:
    assert {case for case in FIRST if case not in GROWING} <= {*UNWIDENED}
