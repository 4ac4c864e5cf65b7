"""Schedules after growth, against torch's own schedulers run from their start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from tests.campaign import subjects
from tests.campaign.commands import grown
from tests.campaign.files import Reading, State, read, save
from tests.campaign.outcome import FindingError
from tests.campaign.subjects import Subject

AHEAD = 20  # steps compared from the growth on
RHO = {"width": 1.776, "depth": 1.412}
Make = Callable[[torch.optim.Optimizer], Any]


def _seconds(make: Make) -> Make:
    def both(optimizer: torch.optim.Optimizer) -> Any:
        return lrs.SequentialLR(optimizer, [lrs.LinearLR(optimizer, 0.1, total_iters=4), make(optimizer)], [4])

    return both


def _three(optimizer: torch.optim.Optimizer) -> Any:
    parts = [lrs.LinearLR(optimizer, 0.1, total_iters=4), lrs.ConstantLR(optimizer, 1.0, 3)]
    return lrs.SequentialLR(optimizer, [*parts, lrs.CosineAnnealingLR(optimizer, 30)], [4, 9])


def _chained(optimizer: torch.optim.Optimizer) -> Any:
    parts = [lrs.LinearLR(optimizer, 0.2, total_iters=6), lrs.ExponentialLR(optimizer, 0.97)]
    return lrs.ChainedScheduler(parts, optimizer)


MAKES: Mapping[str, Make] = {
    "LinearLR": lambda o: lrs.LinearLR(o, 0.1, total_iters=20),
    "LinearLR, decaying": lambda o: lrs.LinearLR(o, 1.0, 0.1, total_iters=12),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 15),
    "CosineAnnealingLR, floor": lambda o: lrs.CosineAnnealingLR(o, 40, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 6, 2),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 0.1, total_steps=80),
    "OneCycleLR, three phases": lambda o: lrs.OneCycleLR(
        o, 0.1, total_steps=80, three_phase=True, anneal_strategy="linear", div_factor=10.0
    ),
    "OneCycleLR, fixed momentum": lambda o: lrs.OneCycleLR(o, 0.1, total_steps=80, cycle_momentum=False),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 7),
    "CyclicLR, range": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 7, 4, mode="exp_range", gamma=0.9, cycle_momentum=False),
    "CyclicLR, triangular2": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 5, mode="triangular2"),
    "StepLR": lambda o: lrs.StepLR(o, 5, 0.5),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [3, 8, 8, 19], 0.5),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 50, 2.0),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, 11),
    "SequentialLR": _seconds(lambda o: lrs.CosineAnnealingLR(o, 30)),
    "SequentialLR of three": _three,
    "SequentialLR with LambdaLR": _seconds(lambda o: lrs.LambdaLR(o, lambda step: 1 / (1 + step))),
    "ChainedScheduler": _chained,
    "LambdaLR": lambda o: lrs.LambdaLR(o, lambda step: min(1.0, (step + 1) / 7)),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, lambda step: 0.9 if step % 2 else 0.95),
    "SWALR": lambda o: SWALR(o, swa_lr=0.003, anneal_epochs=8),
    "SWALR, linear": lambda o: SWALR(o, swa_lr=0.003, anneal_epochs=8, anneal_strategy="linear"),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, patience=1, factor=0.5, eps=0.0),
}
OPTIMIZERS = ("AdamW", "SGD", "AdamW, tensor rate")


def optimizer_of(kind: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Two groups, the second at half the rate, as the small run has them; or those of a grown file."""
    match kind:
        case "AdamW":
            return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
        case "SGD":
            return torch.optim.SGD(groups, lr=0.01, momentum=0.9)
        case _:
            for group in groups:
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
            return torch.optim.AdamW(groups, lr=torch.tensor(0.01, dtype=torch.float64), capturable=False)


def split(model: Any) -> list[dict[str, Any]]:
    """Matrices, and the rest at half the rate; named."""
    named = list(model.named_parameters())
    big, rest = [one for one in named if one[1].dim() > 1], [one for one in named if one[1].dim() < 2]
    return [{"params": big, "lr": 0.01}, {"params": rest, "lr": 0.005}]


def step(scheduler: Any, number: int) -> None:
    """One step; a schedule that follows the loss sees one that rises."""
    scheduler.step(*([1.0 + number] if isinstance(scheduler, lrs.ReduceLROnPlateau) else []))


def observed(optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
    """Each group's rate and first momentum."""
    return [
        (float(group["lr"]), float(group["betas"][0] if "betas" in group else group["momentum"]))
        for group in optimizer.param_groups
    ]


def course(optimizer: torch.optim.Optimizer, scheduler: Any, start: int) -> list[list[tuple[float, float]]]:
    """Now, and after each of the next steps."""
    found = [observed(optimizer)]
    for number in range(AHEAD):
        step(scheduler, start + number)
        found.append(observed(optimizer))
    return found


def tried(seed: int, directory: Path, told: dict[str, Any]) -> None:
    """One draw. Raises FindingError or RefusedError."""
    random = Random(f"schedules {seed}")
    name, kind = random.choice(list(MAKES)), random.choice(OPTIMIZERS)
    rule, asked = random.choice(["keep", "mup"]), random.choice(["keep", "keep", "auto", str(random.randrange(31))])
    before, command = random.randrange(26), random.choice(["width", "width", "depth"])
    told |= {"schedule": name, "optimizer": kind, "rule": rule, "step": asked, "before": before, "command": command}
    tied = random.random() < 0.5
    fields = {**subjects.sizes("llama", 8, 2, 1, 10, 1), "tie_word_embeddings": tied}
    subject = Subject("llama", fields, seed)
    model = subjects.weighted(subject)
    optimizer = optimizer_of(kind, split(model))
    scheduler = MAKES[name](optimizer)
    subjects.loss_of(model, subjects.batches(1, 0)[0]).backward()
    for number in range(before):
        optimizer.step()
        step(scheduler, number)
    if not before:
        optimizer.step()
    source = save(directory / "small", State(subject, model, [optimizer], [scheduler], before), "lightning")
    options = ("--lr-rule", rule, "--step", asked, *(("--noise", "0") if command == "width" else ()))
    grown(command, source, directory / "grown", options)
    reading = read(directory / "grown", "lightning")
    follows_loss = name == "ReduceLROnPlateau"  # left where it is
    number = before if follows_loss else _step(asked, before, command, reading.schedulers[0])
    twin = optimizer_of(kind, split(model))
    fresh = MAKES[name](twin)
    twin.step()
    for one in range(number):
        step(fresh, one)
    _judge(name, kind, rule, reading, twin, fresh, number)


def _step(asked: str, before: int, command: str, state: Mapping[str, Any]) -> int:
    """The schedule's step that is due."""
    if asked == "auto":
        found = int(state.get("last_epoch", before))
        if "_schedulers" in state and "last_epoch" not in state:  # a chain has no clock of its own
            found = int(state["_schedulers"][0]["last_epoch"])
        if abs(found - before / RHO[command]) >= 1:
            raise FindingError(f"--step auto: {found} of {before}, expected {before / RHO[command]:.2f}")
        return found
    return before if asked == "keep" else int(asked)


def _judge(
    name: str, kind: str, rule: str, reading: Reading, twin: torch.optim.Optimizer, fresh: Any, number: int
) -> None:
    stored = reading.optimizers[0]
    parameters = dict(reading.model.named_parameters())
    groups, origins = [], []
    for group in stored["param_groups"]:
        names = [one if one in parameters else one.removeprefix("model.") for one in group["param_names"]]
        origins.append(int(parameters[names[0]].dim() < 2))
        groups.append({"params": [(one, parameters[one]) for one in names], "lr": 0.01 / (1 + origins[-1])})
    optimizer = optimizer_of(kind, groups)
    scheduler = MAKES[name](optimizer)
    try:
        optimizer.load_state_dict(dict(stored))
        scheduler.load_state_dict(dict(reading.schedulers[0]))
        expected, found = course(twin, fresh, number), course(optimizer, scheduler, number)
    except Exception as error:
        raise FindingError(f"a script cannot resume it: {type(error).__name__}: {error}") from error
    skipped = int("Lambda" in name)  # its function is in the script: the rate is right from its next step on
    for index, origin in enumerate(origins):
        rates = [(one[index][0], other[origin][0]) for one, other in zip(found, expected, strict=True)][skipped:]
        ratio = next((one / other for one, other in rates if other), 1.0)
        power = math.log2(ratio) if ratio > 0 else math.inf
        if abs(power - round(power)) > 1e-9 or (rule == "keep" and abs(ratio - 1) > 1e-9) or abs(power) > 4:
            raise FindingError(f"rate {rates[0][0]:.6e} of group {index}, torch's own has {rates[0][1]:.6e}")
        for ahead, (one, other) in enumerate(rates):
            if not math.isclose(one, ratio * other, rel_tol=1e-9, abs_tol=1e-15):
                raise FindingError(
                    f"{ahead + skipped} steps on, group {index} has rate {one:.6e}, due {ratio * other:.6e}"
                )
        for ahead, (one, other) in enumerate(zip(found, expected, strict=True)):
            if not math.isclose(one[index][1], other[origin][1], rel_tol=1e-9):
                raise FindingError(
                    f"{ahead} steps on, group {index} has momentum {one[index][1]}, due {other[origin][1]}"
                )
