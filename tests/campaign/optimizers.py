"""Random optimizers with random groups, and what each is known to keep."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import optim
from transformers import PreTrainedModel
from transformers.optimization import Adafactor as HfAdafactor

from tests.campaign.subjects import GEMMA, loss_of
from tests.helpers.lion import Lion as BareLion


class Lion(BareLion):
    """Lion over the parameters that have a gradient."""

    def step(self, closure: Any = None) -> None:
        """One step."""
        groups = self.param_groups
        self.param_groups = [{**one, "params": [p for p in one["params"] if p.grad is not None]} for one in groups]
        super().step(closure)
        self.param_groups = groups


EPS = {"eps": 1e-6}
DECOUPLED = {**EPS, "weight_decay": 0.1}
SIZED = {"relative_step": False, "clip_threshold": 1.0, "eps": (1e-20, 1e-3)}
KINDS: Mapping[str, tuple[Callable[..., torch.optim.Optimizer], float, Mapping[str, Any]]] = {
    "AdamW": (optim.AdamW, 2e-3, DECOUPLED),
    "AdamW, amsgrad": (optim.AdamW, 2e-3, {**DECOUPLED, "amsgrad": True}),
    "AdamW, maximize": (optim.AdamW, 1e-3, {**EPS, "maximize": True, "weight_decay": 0.0}),
    "Adam": (optim.Adam, 2e-3, EPS),
    "Adam, coupled": (optim.Adam, 2e-3, {**EPS, "weight_decay": 0.05}),
    "NAdam": (optim.NAdam, 2e-3, {**DECOUPLED, "decoupled_weight_decay": True}),
    "RAdam": (optim.RAdam, 2e-3, {**DECOUPLED, "decoupled_weight_decay": True}),
    "Adamax": (optim.Adamax, 2e-3, EPS),
    "Adagrad": (optim.Adagrad, 1e-2, {**EPS, "lr_decay": 0.01}),
    "RMSprop": (optim.RMSprop, 1e-3, EPS),
    "RMSprop, centered, momentum": (optim.RMSprop, 1e-3, {**EPS, "momentum": 0.9, "centered": True}),
    "SGD": (optim.SGD, 0.02, {}),
    "SGD, momentum": (optim.SGD, 0.02, {"momentum": 0.9}),
    "SGD, dampening": (optim.SGD, 0.02, {"momentum": 0.9, "dampening": 0.5}),
    "SGD, Nesterov": (optim.SGD, 0.02, {"momentum": 0.9, "nesterov": True}),
    "SGD, decay": (optim.SGD, 0.02, {"momentum": 0.9, "weight_decay": 0.1}),
    "Lion": (Lion, 3e-4, {"weight_decay": 0.1}),
    "Adafactor": (optim.Adafactor, 1e-2, {"eps": (1e-10, 1e-3), "weight_decay": 0.1}),
    "Adafactor of transformers": (HfAdafactor, 1e-2, {**SIZED, "beta1": 0.9}),
    "Adafactor of transformers, unscaled": (HfAdafactor, 1e-3, {**SIZED, "scale_parameter": False}),
    "Muon": (optim.AdamW, 1e-3, DECOUPLED),
}
COUPLED = ("Adam, coupled", "SGD, decay")
BY_EPS = ("Adamax", "RMSprop, centered, momentum")  # their records hold ε, which only `mup` scales
BY_SIZE = ("Adafactor", "Adafactor of transformers")  # their steps are as large as the weights
GROUPINGS = ("one", "by dimension", "by kind", "one, named")


@dataclass(frozen=True)
class Recipe:
    """An optimizer, how its groups are made, and which kinds of parameters are frozen."""

    kind: str
    grouping: str
    salt: int
    frozen: bool
    lr: float

    @property
    def is_factored(self) -> bool:
        """Whether second moments are kept as rows and columns."""
        return "Adafactor" in self.kind

    def still(self) -> Recipe:
        """The same, gathering moments without a step."""
        return replace(self, lr=0.0)

    def group_of(self, name: str, parameter: torch.Tensor) -> int:
        """By the name without layers' numbers, so that a grown model's fall as the small one's."""
        match self.grouping:
            case "by dimension":
                return int(parameter.dim() < 2)
            case "by kind":
                return zlib.crc32(f"{self.salt} {re.sub('[0-9]', '', name)}".encode()) % 3
            case _:
                return 0

    def freezes(self, name: str) -> bool:
        """A quarter of the kinds of parameters, where any are frozen."""
        return self.frozen and zlib.crc32(f"frozen {self.salt} {re.sub('[0-9]', '', name)}".encode()) % 4 == 0

    def options(self, group: int) -> dict[str, Any]:
        """A group's own options."""
        options: dict[str, Any] = {"lr": self.lr * (1, 0.5, 0.25)[group]}
        if KINDS[self.kind][2].get("weight_decay") and group:
            options["weight_decay"] = (0.1, 0.0, 0.02)[group]
        return options


def drawn(random: Random, family: str) -> Recipe:
    """A random optimizer."""
    kind = random.choice(list(KINDS))
    grouping = random.choice(GROUPINGS)
    frozen = random.random() < 0.15 and kind != "Muon"
    return Recipe(kind, grouping, random.randrange(1000), frozen, KINDS[kind][1])


def build(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The real optimizers (two with Muon) over a model's parameters."""
    named = list(model.named_parameters())
    for name, parameter in named:
        parameter.requires_grad_(not recipe.freezes(name))
    if recipe.kind != "Muon":
        return [_one(recipe, named, KINDS[recipe.kind][0], KINDS[recipe.kind][2])]
    hidden = [name for name, parameter in named if _is_hidden(name, parameter)]
    muon = _one(
        replace(recipe, lr=10 * recipe.lr, grouping="one"),
        [(name, one) for name, one in named if name in hidden],
        torch.optim.Muon,
        {"weight_decay": 0.1, "eps": 1e-7},
    )
    rest = [(name, one) for name, one in named if name not in hidden]
    return [muon, _one(recipe, rest, KINDS["AdamW"][0], DECOUPLED)]


def _is_hidden(name: str, parameter: torch.Tensor) -> bool:
    return parameter.dim() == 2 and bool(re.search(r"\.\d+\.", name)) and "relative" not in name


def _one(recipe: Recipe, named: Sequence[Any], kind: Any, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    members: dict[int, list[Any]] = {}
    for name, parameter in named:
        members.setdefault(recipe.group_of(name, parameter), []).append((name, parameter))
    groups = []
    for group in sorted(members):
        own = {key: value for key, value in recipe.options(group).items() if key in options or key == "lr"}
        named_group = members[group] if recipe.grouping in ("by kind", "one, named") else [p for _, p in members[group]]
        groups.append({"params": named_group, **own})
    return kind(groups, lr=recipe.lr, **options)


def train(
    model: PreTrainedModel,
    optimizers: Sequence[torch.optim.Optimizer],
    samples: Sequence[torch.Tensor],
    schedulers: Sequence[Any] = (),
) -> list[float]:
    """The losses before each step."""
    losses: list[float] = []
    for tokens in samples:
        for one in optimizers:
            one.zero_grad(set_to_none=True)
        loss = loss_of(model, tokens)
        loss.backward()
        for one in [*optimizers, *schedulers]:
            one.step()
        losses.append(float(loss.detach()))
    return losses


def keeps_trajectory(recipe: Recipe, family: str, how: str, *, is_whole: bool, is_tied: bool) -> bool:
    """Whether the README calls `mup` exact for it: decay in the gradient and steps by size want `tile`; the decay of a
    gain that is stored without its 1 pulls it to 1.
    """
    decays = bool(KINDS[recipe.kind][2].get("weight_decay"))
    if family in GEMMA and is_tied and decays:
        return False
    if recipe.kind in (*BY_SIZE, "Adam, coupled"):
        return how == "tile" and is_whole
    return not recipe.is_factored or is_whole


def tolerance_of_losses(recipe: Recipe) -> float:
    """Absolute; Muon iterates in bfloat16."""
    return 5e-3 if recipe.kind == "Muon" else 1e-9
