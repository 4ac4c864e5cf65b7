"""An optimizer makes the same steps at the trainer that it went to, or is left out and told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.train.adoption import adopted
from tests.helpers.lion import Lion
from tests.helpers.paths import ROOT
from tests.helpers.trainer_files import saved_with_its_optimizer

COMPOSERS = ROOT / "fixtures" / "trainers" / "composer" / "llama.pt"
RATES = (0.01, 0.008, 0.004, 0.001, 0.0)  # of a schedule that falls from its first rate
Options = dict[str, Any]


def composers(path: Path, optimizer: str, **options: Any) -> Path:
    """The fixture with another optimizer of Composer's and other options; None takes one away."""
    tree: Any = torch.load(COMPOSERS, weights_only=False)
    (state,) = tree["state"]["optimizers"].values()
    for group in state["param_groups"]:
        for key, value in options.items():
            group.pop(key, None) if value is None else group.update({key: value})
    tree["state"]["optimizers"] = {optimizer: state}
    torch.save(tree, path)
    return path


def with_composers_decay(weight: torch.Tensor, options: Mapping[str, Any], rate: float) -> None:
    """The formula of Composer's source."""
    weight.mul_(1 - rate / options["initial_lr"] * options["weight_decay"])


@pytest.mark.parametrize("decay", [0.0, 1e-5, 0.03])
@pytest.mark.parametrize("first", [0.01, 0.3])
def test_composers_weights_shrink_over_a_schedule_as_torchs_do(tmp_path: Path, decay: float, first: float) -> None:
    source = composers(tmp_path / "a.pt", "DecoupledAdamW", weight_decay=decay, initial_lr=first)
    done = ckptgrow.convert(source, tmp_path / "b", "huggingface")
    assert len(done.notes) == bool(decay)
    (options,) = torch.load(tmp_path / "b" / "optimizer.pt", weights_only=True)["param_groups"]
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5, 3, dtype=torch.float64)) for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    shared = {"betas": options["betas"], "eps": options["eps"]}
    adam = torch.optim.Adam([weights[0]], weight_decay=0.0, **shared)
    adamw = torch.optim.AdamW([weights[1]], weight_decay=options["weight_decay"], **shared)
    for rate in RATES:
        gradient = torch.randn(5, 3, dtype=torch.float64)
        with_composers_decay(weights[0].data, {"initial_lr": first, "weight_decay": decay}, rate * first / RATES[0])
        for weight, optimizer in zip(weights, (adam, adamw), strict=True):
            weight.grad = gradient.clone()
            optimizer.param_groups[0]["lr"] = rate * first / RATES[0]
            optimizer.step()
    assert torch.allclose(*weights, rtol=1e-14, atol=0)  # a few roundings of float64


@pytest.mark.parametrize(
    ("optimizer", "options", "told"),
    [
        ("DecoupledAdamW", {"initial_lr": 0.0}, "with initial_lr 0 shrinks weights by 1e-05, whatever the rate is"),
        ("DecoupledAdamW", {"initial_lr": None, "lr": 0.0}, "with initial_lr 0 shrinks weights"),
        (
            "DecoupledSGDW",
            {"betas": None, "eps": None, "amsgrad": None, "momentum": 0.9, "dampening": 0, "nesterov": False},
            "DecoupledSGDW shrinks weights by weight_decay · lr / initial_lr, which torch's does not",
        ),
    ],
)
def test_a_decay_that_no_other_trainer_has_leaves_the_optimizer_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], optimizer: str, options: Options, told: str
) -> None:
    source = composers(tmp_path / "a.pt", optimizer, **options)
    assert run(["convert", str(source), str(tmp_path / "b"), "--to", "huggingface"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"optimizer 0 ({optimizer} " in shown and told in shown
    assert not (tmp_path / "b" / "optimizer.pt").exists()


def test_a_rate_that_was_never_said_is_the_first_one(tmp_path: Path) -> None:
    """DecoupledAdamW takes its rate for the first one where its group has none."""
    source = composers(tmp_path / "a.pt", "DecoupledAdamW", weight_decay=0.01, lr=0.25, initial_lr=None)
    done = ckptgrow.convert(source, tmp_path / "b", "huggingface")
    assert done.notes == ("weight_decay 0.01 of DecoupledAdamW is 0.04 in AdamW, which multiplies it by lr",)


def test_a_file_of_composers_stays_composers(tmp_path: Path) -> None:
    done = ckptgrow.convert(COMPOSERS, tmp_path / "a.pt", "composer")
    before, after = (torch.load(one, weights_only=False)["state"]["optimizers"] for one in (COMPOSERS, done.out))
    assert list(after) == ["DecoupledAdamW"] and "give its Trainer DecoupledAdamW" in done.notes[0]
    groups = [state["DecoupledAdamW"]["param_groups"][0]["weight_decay"] for state in (before, after)]
    assert groups[0] == groups[1]


def test_a_run_of_ones_own_goes_on_with_torchs_decay() -> None:
    found = adopted(read_checkpoint(COMPOSERS), None, dialect=None, with_optimizer=True)
    assert found.optimizer is not None
    assert [group["weight_decay"] for group in found.optimizer["param_groups"]] == [1e-5 / 0.01]


Build = Callable[..., torch.optim.Optimizer]
FUSED = {"bias_correction": True, "betas": (0.9, 0.95), "eps": 1e-6, "lr": 1e-2}


def trained(build: Build, **options: Any) -> tuple[GPT2LMHeadModel, torch.optim.Optimizer]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, activation_function="gelu", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    optimizer = build(grouped(dict(model.named_parameters()), options.pop("weight_decay", 0.0)), **options)
    for _ in range(3):
        stepped(model, optimizer)
    return model, optimizer


def grouped(named: Mapping[str, torch.nn.Parameter], decay: float) -> list[Options]:
    """The groups of nanoGPT's `configure_optimizers`, both with the same decay."""
    return [
        {"params": [one for one in named.values() if (one.dim() >= 2) == is_matrix], "weight_decay": decay}
        for is_matrix in (True, False)
    ]


def stepped(model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer) -> None:
    tokens = torch.arange(8)[None]
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def without(state: Any, *words: str) -> Any:
    for group in state["param_groups"]:
        for word in words:
            group.pop(word)
    return state


def as_nanogpts(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Its module has torch's Linear where transformers has Conv1D."""
    return tensor.T if tensor.dim() == 2 and ".c_" in name else tensor


def as_apexs(state: Any, **options: Any) -> Any:
    """An AdamW of torch's as apex's FusedAdam would have written it, its step in the groups."""
    for group in state["param_groups"]:
        numbers, decay = group.pop("params"), group.pop("weight_decay")
        group.clear()
        group.update(FUSED, **options, weight_decay=decay, params=numbers, step=3)
    for record in state["state"].values():
        del record["step"]
    return state


ADAM = {"betas": (0.9, 0.95), "eps": 1e-6, "lr": 1e-2}


@pytest.mark.parametrize(
    ("build", "options", "change", "told"),
    [
        (torch.optim.AdamW, {**ADAM, "weight_decay": 0.1}, None, ""),
        (torch.optim.AdamW, {**ADAM, "weight_decay": 0.1, "amsgrad": True}, None, ""),
        (torch.optim.AdamW, {**ADAM, "weight_decay": 0.1}, lambda state: without(state, "decoupled_weight_decay"), ""),
        (torch.optim.AdamW, {**ADAM, "weight_decay": 0.1}, as_apexs, ""),
        (torch.optim.Adam, ADAM, None, ""),
        (torch.optim.Adam, {**ADAM, "weight_decay": 0.1}, None, "Adam, where nanogpt goes on with AdamW"),
        (
            torch.optim.AdamW,
            ADAM,
            lambda state: as_apexs(state, bias_correction=False),
            "FusedAdam without bias_correction, which torch's AdamW always has",
        ),
        (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}, None, "SGD, where nanogpt goes on with AdamW"),
        (torch.optim.NAdam, ADAM, None, "NAdam, where nanogpt goes on with AdamW"),
        (Lion, {"lr": 1e-4}, None, "Lion, where nanogpt goes on with AdamW"),
    ],
)
def test_a_trainers_own_optimizer_makes_the_steps_of_the_one_that_it_takes_over(
    tmp_path: Path, build: Build, options: Options, change: Callable[[Any], Any] | None, told: str
) -> None:
    model, optimizer = trained(build, **options)
    stored = copy.deepcopy(optimizer.state_dict())
    saved_with_its_optimizer(model, stored if change is None else change(stored), tmp_path / "hf")
    done = ckptgrow.convert(tmp_path / "hf", tmp_path / "ckpt.pt", "nanogpt")
    made = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert [one for one in done.left_out if one.startswith("optimizer")] == ([f"optimizer 0 ({told})"] if told else [])
    if told:
        assert "optimizer" not in made
        return
    own = dict(model.named_parameters())
    others = {name: torch.nn.Parameter(made["model"][name]) for name in own}
    theirs = torch.optim.AdamW(grouped(others, 0.0), lr=1.0)
    theirs.load_state_dict(made["optimizer"])
    for _ in range(3):
        for name, one in own.items():
            one.grad = torch.randn_like(one)
            others[name].grad = as_nanogpts(one.grad, name).clone()
        optimizer.step()
        theirs.step()
    for name, one in own.items():
        assert torch.equal(as_nanogpts(one, name), others[name]), name


def test_an_optimizer_of_part_of_the_model_is_left_out_and_told(tmp_path: Path) -> None:
    model, _ = trained(torch.optim.AdamW)
    matrices = [one for one in model.parameters() if one.dim() >= 2]
    part = torch.optim.AdamW(matrices)
    stepped(model, part)
    stored = part.state_dict()
    names = [name for name, one in model.named_parameters() if one.dim() >= 2]
    stored["param_groups"][0]["param_names"] = names
    saved_with_its_optimizer(model, stored, tmp_path / "hf")
    done = ckptgrow.convert(tmp_path / "hf", tmp_path / "ckpt.pt", "nanogpt")
    assert any(one.startswith("optimizer 0 (has no part for ") for one in done.left_out)
    assert "optimizer" not in torch.load(tmp_path / "ckpt.pt", weights_only=True)
