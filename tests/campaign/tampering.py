"""Growths with one thing changed afterwards, which `verify` must not pass."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.campaign import carried, runs, subjects, tampers
from tests.campaign.commands import called, grown
from tests.campaign.files import State, save
from tests.campaign.outcome import FindingError
from tests.campaign.tampers import Target
from tests.campaign.verification import drawn_run, operator_for, passes

CHANGES = 3  # of each growth
# without their own rates, coupled decay or rounding in the way
PLAIN = tuple(one for one in subjects.FAMILIES if one not in ("vit", "bloom", "mpt", *subjects.EXPERTS))


def tried(seed: int, directory: Path, told: dict[str, Any]) -> None:
    """One growth and several changes of it. Raises FindingError or RefusedError."""
    random = Random(f"tamper {seed}")
    run = replace(drawn_run(random), is_still=False)
    schedule = random.choice(runs.SCHEDULES[1:]) if random.random() < 0.7 else "none"
    run = replace(run, subject=subjects.drawn(random, PLAIN), schedule=schedule)
    operator = operator_for(random, run)
    told |= {"run": run.told(), "operator": asdict(operator)}
    state = runs.trained(run)
    source = save(directory / "small", state, "lightning", _extra(state, has_average=random.random() < 0.3))
    grown(operator.command, source, directory / "grown", operator.options)
    passes(operator, source, directory / "grown")
    changes = told["changes"] = []
    missed = []
    for _ in range(CHANGES):
        said = _changed(random, run.subject.model_type, directory, is_padded=operator.kind == "pad")
        changes.append(said)
        if called("verify", source, directory / "changed").code == 0:
            missed.append(said)
    if missed:
        raise FindingError(f"verify passes: {'; '.join(missed)}")


def _extra(state: State, *, has_average: bool) -> dict[str, Any]:
    """What real files also carry."""
    extra: dict[str, Any] = {
        "MixedPrecision": {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "_growth_tracker": 3},
        "callbacks": {"EarlyStopping": {"wait_count": 1, "patience": 3}},
        "notes": {"tokens_seen": 4096},
    }
    if has_average:
        weights = state.model.state_dict()
        averages = {f"ema.{name}": tensor * 0.99 for name, tensor in weights.items()}
        extra["state_dict"] = {**{f"model.{name}": tensor for name, tensor in weights.items()}, **averages}
    return extra


def _changed(random: Random, model_type: str, directory: Path, *, is_padded: bool) -> str:
    """Writes a changed copy of the grown file; what is changed in it."""
    small = torch.load(directory / "small", weights_only=True)
    while True:
        tree = copy.deepcopy(torch.load(directory / "grown", weights_only=True))
        tamper = random.choice(random.choice([tampers.ALL, carried.ALL]))
        said = tamper(Target(tree, random, model_type, small, is_padded))
        if said is not None:
            torch.save(tree, directory / "changed")
            return f"{tamper.__name__}: {said}"
