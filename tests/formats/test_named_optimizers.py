"""Optimizers whose parameters are names, as consolidated FSDP runs have them: any order, any kind of file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.cli import run
from ckptgrow.state.opening import open_state
from tests.helpers import families
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning
from tests.helpers.state_requests import MUP

SPELT_OTHERWISE = ("vit", "gpt_neox", "mixtral")  # in files


def trained_in(num_groups: int) -> tuple[Any, dict[str, Any], list[str]]:
    """A model, its optimizer's state by name (groups dealt at random, in an order of their own), and names."""
    model = perturbed_gpt2()
    names = [name for name, _ in model.named_parameters()]
    random.Random(num_groups).shuffle(names)
    parameters = dict(model.named_parameters())
    groups = [{"params": [parameters[name] for name in names[start::num_groups]]} for start in range(num_groups)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    train(model, optimizer, token_batches(2))
    return model, optimizer.state_dict(), [name for start in range(num_groups) for name in names[start::num_groups]]


def by_name(state: dict[str, Any], names: list[str], prefix: str) -> dict[str, Any]:
    groups = [{**one, "params": [prefix + names[number] for number in one["params"]]} for one in state["param_groups"]]
    return {
        "state": {prefix + names[number]: record for number, record in state["state"].items()},
        "param_groups": groups,
    }


def records(state: dict[str, Any]) -> dict[str, Any]:
    """Records by name, whether names are keys or stand beside numbers."""
    named: dict[str, Any] = {}
    for group in state["param_groups"]:
        for key, name in zip(group["params"], group.get("param_names", group["params"]), strict=True):
            named[name] = state["state"][key]
    return named


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, record in one.items():
        assert all(torch.equal(record[key], other[name][key]) for key in ("exp_avg", "exp_avg_sq")), name


@pytest.mark.sampled(10)
@pytest.mark.parametrize("num_groups", [1, 2, 3])
@pytest.mark.parametrize("operator", ["width", "depth", "mup"])
@pytest.mark.parametrize("prefix", ["model.", "", "_forward_module.model.", "model._fsdp_wrapped_module."])
def test_names_in_any_order_are_matched_and_stay_names(
    tmp_path: Path, num_groups: int, operator: str, prefix: str
) -> None:
    model, state, names = trained_in(num_groups)
    numbered = {
        **state,
        "param_groups": [
            {**one, "param_names": [names[number] for number in one["params"]]} for one in state["param_groups"]
        ],
    }
    found: list[Any] = []
    for kind, optimizer in (("named", by_name(state, names, prefix)), ("numbered", numbered)):
        source = save_lightning(tmp_path / f"{kind}.ckpt", model, optimizer_states=[optimizer])
        if operator == "depth":
            ckptgrow.depth(source, tmp_path / f"grown-{kind}.ckpt")
        else:
            request = MUP if operator == "mup" else StateRequest()
            ckptgrow.width(source, tmp_path / f"grown-{kind}.ckpt", noise=0, request=request)
        found.append(torch.load(tmp_path / f"grown-{kind}.ckpt", weights_only=True)["optimizer_states"][0])
    named, others = found
    assert all(isinstance(name, str) for group in named["param_groups"] for name in group["params"])
    assert all("param_names" not in group for group in named["param_groups"])
    assert set(named["state"]) == {name for group in named["param_groups"] for name in group["params"]}
    assert_equal(records(named), records(others))


@pytest.mark.parametrize("file", ["optimizer.pt", "optimizer.bin"])
def test_a_directorys_optimizer_by_name_stays_by_name(tmp_path: Path, file: str) -> None:
    model, state, names = trained_in(2)
    model.save_pretrained(tmp_path / "small")
    torch.save(by_name(state, names, ""), tmp_path / "small" / file)
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    grown = torch.load(tmp_path / "grown" / file, weights_only=True)
    assert set(grown["state"]) == set(names)
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed


def test_groups_with_and_without_names_are_matched_together(tmp_path: Path) -> None:
    """What has names goes by them; the others fit what is left."""
    model, state, names = trained_in(2)
    first, second = state["param_groups"]
    first["param_names"] = [names[number] for number in first["params"]]
    order = [name for name, _ in model.named_parameters() if name not in first["param_names"]]
    second["params"] = [names.index(name) for name in order]
    source = save_lightning(tmp_path / "small.ckpt", model, optimizer_states=[state])
    assert run(["convert", str(source), str(tmp_path / "hf"), "--to", "huggingface"]) == 0
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


@pytest.mark.parametrize("change", ["unknown", "twice", "stray"])
def test_names_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str) -> None:
    model, state, names = trained_in(1)
    named = by_name(state, names, "model.")
    listed = named["param_groups"][0]["params"]
    if change == "unknown":
        named["state"]["model.nothing"] = named["state"].pop(listed[0])
        listed[0] = "model.nothing"
    elif change == "twice":
        listed[0] = listed[1]
    else:
        listed.pop()
    source = save_lightning(tmp_path / "small.ckpt", model, optimizer_states=[named])
    assert run(["width", str(source), str(tmp_path / "grown.ckpt")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "expected" in error
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", SPELT_OTHERWISE)
@pytest.mark.parametrize("is_keyed", [False, True])
def test_names_of_the_module_are_matched_where_files_spell_them_otherwise(
    tmp_path: Path, case: str, is_keyed: bool
) -> None:
    """An optimizer is told the names of `named_parameters`; `save_pretrained` writes others for some families."""
    model = families.perturbed(case)
    names = [name for name, _ in model.named_parameters()]
    random.Random(case).shuffle(names)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([(name, parameters[name]) for name in names], lr=1e-3)
    families.trained(model, optimizer, families.batches(2))
    model.save_pretrained(tmp_path / "small")
    with safe_open(tmp_path / "small" / "model.safetensors", "pt") as file:
        assert not {*names} <= {*file.keys()}
    state = optimizer.state_dict()
    torch.save(by_name(state, names, "") if is_keyed else state, tmp_path / "small" / "optimizer.pt")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0, request=MUP)
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed
    groups = torch.load(tmp_path / "grown" / "optimizer.pt", weights_only=True)["param_groups"]
    told = [name for group in groups for name in group["params" if is_keyed else "param_names"]]
    assert len(groups) > 1 and sorted(told) == sorted(names)


@pytest.mark.parametrize("case", SPELT_OTHERWISE)
@pytest.mark.parametrize("spelt_as", ["nothing", "filed"])
def test_groups_that_growth_makes_say_the_modules_names_or_those_that_were_told(
    tmp_path: Path, case: str, spelt_as: str
) -> None:
    model = families.perturbed(case)
    optimizer = families.adamw(model.parameters())
    families.trained(model, optimizer, families.batches(2))
    model.save_pretrained(tmp_path / "small")
    state, filed = optimizer.state_dict(), {name: name for name, _ in model.named_parameters()}
    if spelt_as == "filed":
        own = open_state(tmp_path / "small").claim.parameters
        filed = {one.module_name(one.layer): one.name for one in own}
        state["param_groups"][0]["param_names"] = [filed[name] for name, _ in model.named_parameters()]
    torch.save(state, tmp_path / "small" / "optimizer.pt")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0, request=MUP)
    groups = torch.load(tmp_path / "grown" / "optimizer.pt", weights_only=True)["param_groups"]
    assert sorted(name for group in groups for name in group["param_names"]) == sorted(filed.values())
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed
