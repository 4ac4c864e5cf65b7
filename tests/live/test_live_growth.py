"""Growth of living objects: bit-equal to growth through files, and just as good to go on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from transformers import PreTrainedModel
from transformers.optimization import Adafactor as HfAdafactor
from transformers.optimization import get_cosine_schedule_with_warmup

import ckptgrow
from ckptgrow import StateRequest
from tests.helpers.families import CASES, batches, images, outputs, perturbed
from tests.helpers.lightning_files import assert_same, load_model, save_lightning
from tests.helpers.optimizers import regrouped

Optimizers = list[torch.optim.Optimizer]


def rising(step: int) -> float:
    """A user's own schedule."""
    return min(1.0, (step + 1) / 4) * 0.9**step


def adamw(model: PreTrainedModel) -> Optimizers:
    return [torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)]


def adam_of_named(model: PreTrainedModel) -> Optimizers:
    return [torch.optim.Adam(model.named_parameters(), lr=2e-3)]


def sgd_in_two_groups(model: PreTrainedModel) -> Optimizers:
    vectors = [one for one in model.parameters() if one.dim() < 2]
    matrices = [one for one in model.parameters() if one.dim() > 1]
    return [torch.optim.SGD([{"params": vectors, "lr": 0.02}, {"params": matrices}], lr=0.01, momentum=0.9)]


def adafactor(model: PreTrainedModel) -> Optimizers:
    return [HfAdafactor(model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False)]


def muon_beside_adamw(model: PreTrainedModel) -> Optimizers:
    hidden = [one for name, one in model.named_parameters() if one.dim() == 2 and ".h." in name]
    others = [one for one in model.parameters() if all(one is not other for other in hidden)]
    return [torch.optim.Muon(hidden, lr=1e-2), torch.optim.AdamW(others, lr=2e-3)]


def cosine(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.CosineAnnealingLR(optimizer, 20)


def by_lambda(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.LambdaLR(optimizer, rising)


def of_transformers(optimizer: torch.optim.Optimizer) -> Any:
    return get_cosine_schedule_with_warmup(optimizer, 2, 20)


def multiplied(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9)


def in_sequence(optimizer: torch.optim.Optimizer) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 3), by_lambda(optimizer)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])


MUP = StateRequest(lr_rule="mup")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A tiny training, and the growth that it goes through."""

    family: str
    optimizers: Callable[[PreTrainedModel], Optimizers]
    scheduler: Callable[[torch.optim.Optimizer], Any]
    growth: Mapping[str, Any]
    request: Mapping[str, Any] = field(default_factory=dict[str, Any])


RUNS = {
    "AdamW, cosine, split": Run(
        family="gpt2", optimizers=adamw, scheduler=cosine, growth={"width": 2}
    ),
    "SGD, own lambda, mup": Run(
        family="llama tied",
        optimizers=sgd_in_two_groups,
        scheduler=by_lambda,
        growth={"width": 2, "separate": "none"},
        request={"lr_rule": "mup"},
    ),
    "Adam, sequence, depth": Run(
        family="qwen2", optimizers=adam_of_named, scheduler=in_sequence, growth={"depth": 2}
    ),
    "AdamW, transformers' cosine, tied encoder and decoder": Run(
        family="t5", optimizers=adamw, scheduler=of_transformers, growth={"width": 2}, request={"lr_rule": "mup"}
    ),
    "AdamW, cosine, padded": Run(
        family="llama",
        optimizers=adamw,
        scheduler=cosine,
        growth={"hidden": 24, "heads": 6, "kv_heads": 3, "ffn": 30, "how": "pad"},
    ),
    "Adafactor, sequence, noise": Run(
        family="gemma2", optimizers=adafactor, scheduler=in_sequence, growth={"width": 2, "noise": 0.1, "seed": 3}
    ),
    "Muon and AdamW, mup": Run(
        family="gpt2",
        optimizers=muon_beside_adamw,
        scheduler=multiplied,
        growth={"width": 2, "separate": "none"},
        request={"lr_rule": "mup"},
    ),
    "AdamW, cosine, more tokens": Run(
        family="gemma", optimizers=adamw, scheduler=cosine, growth={"vocab": 47}
    ),
    "Adafactor, sequence, more positions": Run(
        family="opt", optimizers=adafactor, scheduler=in_sequence, growth={"positions": 40, "new": "interpolate"}
    ),
    "experts, new layers that begin anew": Run(
        family="mixtral",
        optimizers=adamw,
        scheduler=by_lambda,
        growth={"layers": [0, 1, 1], "new": "copy"},
        request={"reset": ("new",)},
    ),
}  # fmt: skip


def losses(model: PreTrainedModel, optimizers: Optimizers, schedulers: Sequence[Any], samples: Any) -> list[float]:
    """Of training steps, as a user's loop makes them."""
    found: list[float] = []
    for tokens in samples:
        if model.config.model_type == "vit":
            logits = model(pixel_values=images(tokens).to(model.dtype)).logits
            loss = cross_entropy(logits, tokens[:, 0] % 3)
        else:
            loss = cross_entropy(outputs(model, tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
        found.append(float(loss.detach()))
    return found


def trained(run: Run) -> tuple[PreTrainedModel, Optimizers, list[Any]]:
    model = perturbed(run.family).float()
    optimizers = run.optimizers(model)
    schedulers = [run.scheduler(one) for one in optimizers]
    losses(model, optimizers, schedulers, batches(5))
    return model, optimizers, schedulers


def grown_file(run: Run, small: Path) -> Path:
    options, out = dict(run.growth), small.with_name("grown.ckpt")
    name = next(
        (one for one in ("depth", "vocab", "positions") if one in options), "depth" if "layers" in options else "width"
    )
    operators = {
        "width": ckptgrow.width,
        "depth": ckptgrow.depth,
        "vocab": ckptgrow.vocab,
        "positions": ckptgrow.positions,
    }
    number = options.pop(name, None)
    by_number = {"size" if name in ("vocab", "positions") else "factor": number} if number else {}
    operators[name](small, out, **by_number, **options, request=StateRequest(**run.request))
    return out


def resumed_from(path: Path, run: Run) -> tuple[PreTrainedModel, Optimizers, list[Any]]:
    """What a script makes of a grown file: the run's own classes, with the state that torch loads."""
    model, tree = load_model(path)
    model.config._experts_implementation = "eager"  # as in `perturbed`
    optimizers: Optimizers = []
    for old, state in zip(run.optimizers(perturbed(run.family).float()), tree["optimizer_states"], strict=True):
        optimizers.append(type(old)(regrouped(model, state)))
    schedulers = [run.scheduler(one) for one in optimizers]
    for scheduler, state in zip(schedulers, tree["lr_schedulers"], strict=True):
        scheduler.load_state_dict(state)
    for optimizer, state in zip(optimizers, tree["optimizer_states"], strict=True):
        optimizer.load_state_dict(state)
    return model, optimizers, schedulers


def without_names(state: Mapping[str, Any]) -> dict[str, Any]:
    groups = [{key: one for key, one in group.items() if key != "param_names"} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def assert_equals_file(grown: ckptgrow.LiveGrowth, path: Path) -> None:
    """Every tensor and number of the objects is the file's."""
    tree = torch.load(path, weights_only=True)
    weights = {name.removeprefix("model."): one for name, one in tree["state_dict"].items()}
    assert_same(weights, dict(grown.model.state_dict()))
    for state, optimizer in zip(tree["optimizer_states"], grown.optimizers, strict=True):
        assert_same(without_names(state), without_names(optimizer.state_dict()))
    assert_same(tree["lr_schedulers"], [one.state_dict() for one in grown.schedulers])
    assert tree["hyper_parameters"]["config"] == {**grown.model.config.to_dict()}


@pytest.mark.parametrize("name", RUNS)
def test_it_is_growth_through_files_to_the_bit_and_goes_on_alike(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    model, optimizers, schedulers = trained(run)
    small = save_lightning(tmp_path / "small.ckpt", model, optimizers, schedulers)
    before = torch.load(small, weights_only=True)
    grown = ckptgrow.grow(model, optimizers, schedulers, **run.growth, request=StateRequest(**run.request))
    path = grown_file(run, small)
    assert_equals_file(grown, path)
    known = torch.load(path, weights_only=True)["ckptgrow"]["history"][0]
    mine = dict(grown.report.record)
    assert known.pop("source_sha256") != mine.pop("source_sha256")  # of other names: the file's have a prefix
    assert_same(known, mine)
    assert_same(before, torch.load(save_lightning(tmp_path / "still.ckpt", model, optimizers, schedulers)))
    assert type(grown.model) is type(model)
    assert list(map(type, grown.optimizers)) == list(map(type, optimizers))
    assert all(new.optimizer is one for new, one in zip(grown.schedulers, grown.optimizers, strict=True))
    again = resumed_from(path, run)
    more = batches(5, seed=9)
    expected = losses(*again, more)
    assert losses(grown.model, list(grown.optimizers), grown.schedulers, more) == expected
    assert_same(again[0].state_dict(), grown.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("growth", [{"width": 2}, {"width": 3, "how": "tile", "noise": 0}, {"ffn": 40}, {"depth": 2}])
def test_every_family_grows_as_through_files(family: str, growth: dict[str, Any], tmp_path: Path) -> None:
    run = Run(family=family, optimizers=adamw, scheduler=by_lambda, growth=growth)
    model, optimizers, schedulers = trained(run)
    small = save_lightning(tmp_path / "small.ckpt", model, optimizers, schedulers)
    try:
        path = grown_file(run, small)
    except ckptgrow.CkptgrowError as refusal:
        with pytest.raises(type(refusal)):
            ckptgrow.grow(model, optimizers, schedulers, **growth)
        return
    assert_equals_file(ckptgrow.grow(model, optimizers, schedulers, **growth), path)
