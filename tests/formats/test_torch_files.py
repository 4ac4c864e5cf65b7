"""Whatever people put into `torch.save`: each part is found, grows where it lay, and the loop goes on from there."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from transformers import GPT2LMHeadModel

import ckptgrow
from ckptgrow.errors import CheckpointError
from ckptgrow.formats.known_formats import read_checkpoint, write_checkpoint
from ckptgrow.progress import silent
from tests.helpers.gpt2 import gpt2_config, perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import assert_same

Loop = tuple[Any, torch.optim.Optimizer, Any]


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged(model: Any) -> dict[str, Any]:
    average = AveragedModel(model)
    average.update_parameters(model)
    return average.state_dict()


SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 5}
FILES: dict[str, Callable[[Any, Any, Any], dict[str, Any]]] = {
    "plain": lambda m, o, s: {"model": m, "optimizer": o, "scheduler": s, "step": 5},
    "tutorial": lambda m, o, s: {"model_state_dict": m, "optimizer_state_dict": o, "epoch": 1, "loss": 4.1},
    "imagenet": lambda m, o, s: {"state_dict": m, "optimizer": o, "epoch": 1, "arch": "gpt2", "best_acc1": 0.1},
    "torchvision": lambda m, o, s: {"model": m, "optimizer": o, "lr_scheduler": s, "args": Namespace(lr=1e-3)},
    "bare": lambda m, o, s: m,
    "rng": lambda m, o, s: {"model": m, "optimizer": o, "rng": torch.get_rng_state(), "iter_num": 5},
    "wrapped": lambda m, o, s: {"model": prefixed("module._orig_mod.", m), "optimizer": o, "scaler": SCALER, "step": 5},
    "nested": lambda m, o, s: {"state": {"model": m, "optimizers": {"AdamW": o}, "schedulers": {"StepLR": s}}},
    "named": lambda m, o, s: {"model": m, "optimizer": by_name(o, [*m][:-1])},
    "several": lambda m, o, s: {"net": m, "opts": [o], "scheds": [s], "it": 5},
}


def by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """As FSDP consolidates it."""
    groups = [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[number]: record for number, record in state["state"].items()}, "param_groups": groups}


@pytest.fixture(scope="module")
def loop() -> Loop:
    model = perturbed_gpt2(n_layer=1).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    train(model, optimizer, token_batches(2))
    return model, optimizer, scheduler


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    gpt2_config(n_layer=1).to_json_file(path)
    return path


def saved(path: Path, loop: Loop, kind: str) -> Path:
    model, optimizer, scheduler = loop
    torch.save(FILES[kind](model.state_dict(), optimizer.state_dict(), scheduler.state_dict()), path)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_each_part_is_found_and_written_where_it_lay(tmp_path: Path, loop: Loop, kind: str) -> None:
    source = saved(tmp_path / "a.pt", loop, kind)
    read = read_checkpoint(source)
    assert read.kind == "torch"
    assert len(read.optimizers) == (kind != "bare")
    assert read.position.global_step == (5 if kind in ("plain", "rng", "wrapped", "several") else None)
    write_checkpoint(read, tmp_path / "b.pt", silent, force=False)
    one, other = (torch.load(path, weights_only=False) for path in (source, tmp_path / "b.pt"))
    assert_same(one, other)


@pytest.mark.parametrize("kind", ["plain", "bare", "nested", "named"])
def test_a_grown_file_verifies_and_its_loop_goes_on(tmp_path: Path, loop: Loop, config: Path, kind: str) -> None:
    source = saved(tmp_path / "a.pt", loop, kind)
    ckptgrow.width(source, tmp_path / "b.pt", factor=2, request=ckptgrow.StateRequest(config=config))
    assert ckptgrow.verify(source, tmp_path / "b.pt", config=config).passed
    grown = torch.load(tmp_path / "b.pt", weights_only=True)
    model = GPT2LMHeadModel(gpt2_config(n_layer=1, n_embd=24, n_head=6, n_inner=40)).float()
    model.load_state_dict(grown["state"]["model"] if kind == "nested" else grown["model"] if kind != "bare" else grown)
    if kind in ("plain", "nested"):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
        optimizer.load_state_dict(grown["optimizer"] if kind == "plain" else grown["state"]["optimizers"]["AdamW"])
        train(model, optimizer, token_batches(1))
        assert optimizer.state[model.transformer.wte.weight]["step"] == 3


def test_averages_of_the_weights_grow_with_them(tmp_path: Path, loop: Loop, config: Path) -> None:
    model, optimizer, _ = loop
    state = {"model": model.state_dict(), "ema": averaged(model), "optimizer": optimizer.state_dict(), "step": 5}
    torch.save(state, tmp_path / "a.pt")
    ckptgrow.depth(tmp_path / "a.pt", tmp_path / "b.pt", factor=2, request=ckptgrow.StateRequest(config=config))
    assert ckptgrow.verify(tmp_path / "a.pt", tmp_path / "b.pt", config=config).passed
    grown = torch.load(tmp_path / "b.pt", weights_only=True)
    assert grown["ema"].keys() == {"n_averaged", *(f"module.{name}" for name in grown["model"])}


def test_parts_in_files_of_their_own_grow(tmp_path: Path, loop: Loop, config: Path) -> None:
    model, optimizer, scheduler = loop
    source = tmp_path / "a"
    source.mkdir()
    for name, part in (("model", model), ("optimizer", optimizer), ("scheduler", scheduler)):
        torch.save(part.state_dict(), source / f"{name}.pt")
    (source / "config.json").write_bytes(config.read_bytes())
    ckptgrow.width(source, tmp_path / "b", factor=2)
    assert ckptgrow.verify(source, tmp_path / "b").passed
    names = {"model.pt", "optimizer.pt", "scheduler.pt", "config.json", "ckptgrow.json", "trainer_state.json"}
    assert {one.name for one in (tmp_path / "b").iterdir()} <= names


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"a": {"x.weight": torch.ones(2)}, "b": {"y.weight": torch.ones(2)}}, "a, b could each be the model"),
        ({"loss": 1.0, "step": 5}, "holds loss, step and no model"),
    ],
)
def test_a_file_without_one_model_is_refused_by_name(tmp_path: Path, state: dict[str, Any], reason: str) -> None:
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(tmp_path / "a.pt")
