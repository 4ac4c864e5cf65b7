"""Tiny GPT-2 runs with every optimizer, and the same optimizer as any script would load it from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from dadaptation import DAdaptAdam
from prodigyopt import Prodigy
from pytorch_optimizer import SOAP, Adan, Lamb
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import optim
from transformers import PreTrainedModel
from transformers.optimization import Adafactor as HfAdafactor

import ckptgrow
from ckptgrow.growth.request import StateRequest
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lion import Lion
from tests.helpers.sophia import SophiaG
from tests.helpers.state_requests import MUP

Build = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Case:
    """An optimizer: `build(parameters, lr)`, a learning rate that trains, and the ways of growth in which `mup` keeps
    its trajectory.
    """

    build: Build
    lr: float
    exact_in: tuple[str, ...] = ("diagonal", "tile")

    @property
    def rules(self) -> StateRequest:
        """Rule `mup` where there is one for it."""
        return MUP if self.exact_in else StateRequest()


def case(kind: Any, lr: float, exact_in: tuple[str, ...] = ("diagonal", "tile"), **options: Any) -> Case:
    return Case(lambda parameters, lr: kind(parameters, lr=lr, **options), lr, exact_in)


def estimating(kind: Any, exact_in: tuple[str, ...] = ("diagonal", "tile"), **options: Any) -> Case:
    """An optimizer that estimates its learning rate, and takes none of 0: 1e-30 moves no weight either."""
    return Case(lambda parameters, lr: kind(parameters, lr=lr or 1e-30, **options), 1.0, exact_in)


TILE = ("tile",)
# Key biases have no gradient but rounding; an ε below that makes it noise of full size, which reaches the rest of the
# fused tensor through its root mean square. So these ε are small beside gradients, and large beside their rounding.
ADAFACTOR = {"relative_step": False, "clip_threshold": 1.0, "eps": (1e-20, 1e-3)}
CASES: Mapping[str, Case] = {
    "Adam": case(optim.Adam, 2e-3, eps=1e-6),
    "Adam, coupled decay": case(optim.Adam, 2e-3, TILE, eps=1e-6, weight_decay=0.05),
    "AdamW": case(optim.AdamW, 2e-3, eps=1e-6, weight_decay=0.1),
    "AdamW, amsgrad": case(optim.AdamW, 2e-3, eps=1e-6, weight_decay=0.1, amsgrad=True),
    "NAdam": case(optim.NAdam, 2e-3, eps=1e-6, weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": case(optim.RAdam, 2e-3, eps=1e-6, weight_decay=0.1, decoupled_weight_decay=True),
    "Adamax": case(optim.Adamax, 2e-3, eps=1e-6),
    "Adamax, coupled decay": case(optim.Adamax, 2e-3, TILE, eps=1e-6, weight_decay=0.05),
    "Adagrad": case(optim.Adagrad, 1e-2, eps=1e-6, lr_decay=0.01),
    "Adagrad, started": case(optim.Adagrad, 1e-2, eps=1e-6, initial_accumulator_value=1e-3),
    "RMSprop": case(optim.RMSprop, 1e-3, eps=1e-6),
    "RMSprop, centered with momentum": case(optim.RMSprop, 1e-3, eps=1e-6, momentum=0.9, centered=True),
    "SGD": case(optim.SGD, 0.05),
    "SGD, momentum": case(optim.SGD, 0.02, momentum=0.9),
    "SGD, momentum and decay": case(optim.SGD, 0.02, momentum=0.9, weight_decay=0.1),
    "SGD, Nesterov": case(optim.SGD, 0.02, momentum=0.9, nesterov=True),
    "Lion": case(Lion, 3e-4, weight_decay=0.1),
    "AdamWScheduleFree": case(AdamWScheduleFree, 2e-3, eps=1e-6, weight_decay=0.1, warmup_steps=4),
    "AdamWScheduleFree, weighted": case(AdamWScheduleFree, 2e-3, eps=1e-6, r=1.0, weight_lr_power=1.0, foreach=False),
    "SGDScheduleFree": case(SGDScheduleFree, 0.02, weight_decay=0.1),
    "Prodigy": estimating(Prodigy, (), eps=1e-6, d0=1e-3, weight_decay=0.1),
    "DAdaptAdam": estimating(DAdaptAdam, eps=1e-6, d0=1e-3),
    "DAdaptAdam, decoupled decay": estimating(DAdaptAdam, eps=1e-6, d0=1e-3, weight_decay=0.1, decouple=True),
    "Adan": case(Adan, 2e-3, eps=1e-6, weight_decay=0.1, weight_decouple=True),
    "Adan, proximal decay": case(Adan, 2e-3, eps=1e-6, weight_decay=0.1),
    # where copies agree, its bases leave nothing but rounding, which a small ε makes steps of full size
    "SOAP": case(SOAP, 2e-3, eps=1e-3, weight_decay=0.1, precondition_frequency=100),
    "SophiaG": case(SophiaG, 1e-3, weight_decay=0.1),
    "LAMB": case(Lamb, 2e-3, TILE, eps=1e-12, weight_decay=0.05),
    "LAMB, decay in the update": case(Lamb, 2e-3, TILE, eps=1e-12, weight_decay=0.05, weight_decouple=False),
    "Adafactor": case(optim.Adafactor, 1e-2, TILE, eps=(1e-10, 1e-3), weight_decay=0.1),
    "Adafactor, bounded": case(optim.Adafactor, 1e-2, TILE, eps=(1e-5, 1e-1)),
    "Adafactor of transformers": case(HfAdafactor, 1e-2, TILE, weight_decay=0.1, **ADAFACTOR),
    "Adafactor of transformers, averaged": case(HfAdafactor, 1e-2, TILE, beta1=0.9, **ADAFACTOR),
    "Adafactor of transformers, unscaled": case(
        HfAdafactor, 1e-3, scale_parameter=False, beta1=0.9, weight_decay=0.1, **ADAFACTOR
    ),
}


# One a row of the table; the variants run among the slow tests where each case costs a second.
TELLING = {
    "AdamW",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adagrad",
    "RMSprop, centered with momentum",
    "SGD, momentum",
    "Lion",
    "AdamWScheduleFree",
    "SGDScheduleFree",
    "DAdaptAdam",
    "Adan",
    "SOAP",
    "SophiaG",
    "LAMB",
    "Adafactor",
    "Adafactor of transformers, averaged",
}
ALL = [pytest.param(name, marks=() if name in TELLING else pytest.mark.slow) for name in CASES]


def tiny_gpt2() -> PreTrainedModel:
    return perturbed_gpt2(n_layer=1, n_embd=6, n_inner=10)


def stored(path: Path) -> list[dict[str, Any]]:
    return torch.load(path, weights_only=True)["optimizer_states"]


def regrouped(model: torch.nn.Module, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The model's parameters in a stored optimizer's groups, with these groups' options."""
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied head has two names
    ordered = list(model.parameters())
    groups: list[dict[str, Any]] = []
    for group in state["param_groups"]:
        names = group.get("param_names")
        members = (
            [parameters[name.removeprefix("model.")] for name in names]
            if names
            else [ordered[number] for number in group["params"]]
        )
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append({"params": members, **options})
    return groups


def resumed(model: torch.nn.Module, state: Mapping[str, Any], build: Build, *lr: float) -> torch.optim.Optimizer:
    """An optimizer with the groups of a stored one, loaded the way any script would."""
    optimizer = build(regrouped(model, state), *lr)
    optimizer.load_state_dict(dict(state))
    return optimizer


def anew(model: torch.nn.Module, state: Mapping[str, Any], build: Build, lr: float) -> torch.optim.Optimizer:
    """An optimizer that has seen nothing, with the stored one's groups."""
    optimizer = build(regrouped(model, state), lr)
    for group in optimizer.param_groups:
        group.update({clock: 0 for clock in ("k", "step") if clock in group})
        for parameter in group["params"] if "initial_accumulator_value" in group else ():
            optimizer.state[parameter]["sum"].fill_(group["initial_accumulator_value"])
    return optimizer


WhatIsNew = Literal["padded", "deeper"]


def check_what_is_new(source: Path, target: Path, growth: WhatIsNew) -> None:
    """A run grows by coordinates that copy nothing, or by new layers, and is verified."""
    if growth == "padded":
        ckptgrow.width(source, target, how="pad", ffn=13)
    else:
        ckptgrow.depth(source, target, place="append")
    report = ckptgrow.verify(source, target)
    assert report.passed, report.sentences
