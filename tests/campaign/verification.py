"""Correct growths, which `verify` must pass: one false alarm is a finding."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.campaign import operators, runs, subjects
from tests.campaign.commands import called, grown, has_moments, has_separate
from tests.campaign.files import FORMATS, STEPLESS, State, save
from tests.campaign.operators import Operator
from tests.campaign.outcome import FindingError, RefusedError
from tests.campaign.runs import Run

PECULIARITIES = ("none", "none", "tiny", "spread", "zero", "missing")
CHANGING = ("copy", "ode", "random")  # new layers that change the function, and nothing else
LOST = 0.01  # of the largest logit: what is left of such a function is nothing to judge
PARTS = ("structure", "function", "moments", "trajectory")
MOMENTS = ((), (), ("--reset", "new"), ("--moments", "unscaled"), ("--reset", "new", "--moments", "unscaled"))
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")
# by a stronger noise than these, rounding truly changes the function
SEPARATIONS = {
    "float64": ("default", "none", "split", "0.1", "1", "2", "4"),
    "float32": ("default", "none", "split", "0.1", "1"),
}


def tried(seed: int, directory: Path, told: dict[str, Any]) -> None:
    """One draw. Raises FindingError or RefusedError."""
    random = Random(f"verify {seed}")
    run = drawn_run(random)
    form = random.choice(FORMATS) if run.recipe.kind != "Muon" else "lightning"
    peculiar = random.choice(PECULIARITIES) if run.dtype != "float16" else "none"  # it has no smaller numbers
    told |= {"run": run.told(), "format": form, "peculiar": peculiar, "growths": []}
    state = runs.trained(run)
    make_peculiar(random, peculiar, state)
    path = save(directory / "0", state, form)
    for number in range(random.choice([1, 1, 2, 3])):
        operator = operator_for(random, run, is_first=number == 0, may_change=True)
        if form in STEPLESS:
            operator = replace(operator, step="keep")
        told["growths"].append(asdict(operator))
        try:
            grown(operator.command, path, directory / str(number + 1), operator.options)
        except RefusedError:
            if number:
                break
            raise
        more = ("--steps", "3") if random.random() < 0.2 else ()
        passes(operator, path, directory / str(number + 1), more)
        path = directory / str(number + 1)


def passes(operator: Operator, small: Path, large: Path, more: tuple[str, ...] = ()) -> None:
    """Raises FindingError where `verify` does not pass a growth, RefusedError where noise has left nothing to judge."""
    ending = called("verify", small, large, *more)
    if ending.code == 0 and operator.new not in CHANGING:
        return
    report = json.loads(called("verify", small, large, *more, "--json").out)
    failed = [part for part in PARTS if report[part] is not None and not report[part]["passed"]]
    if operator.is_noisy and report["function"]["tolerance"] >= LOST:
        raise RefusedError("the noise is more than the function bears, as growth has warned")
    if operator.new not in CHANGING or failed not in ([], ["function"]):
        raise FindingError(f"verify {' '.join(more)} exits {ending.code}: {words_of(ending.out + ending.err)}")


def drawn_run(random: Random) -> Run:
    """A run in any dtype; in low precision rounding may turn a router's choice, which is no small change."""
    dtype = random.choice(["float64", "float32", "float32", "bfloat16", "float16", "mixed"])
    smooth = tuple(one for one in subjects.FAMILIES if one not in subjects.EXPERTS)
    return runs.drawn(random, (dtype,), subjects.FAMILIES if dtype in SEPARATIONS else smooth)


def operator_for(random: Random, run: Run, *, is_first: bool = True, may_change: bool = False) -> Operator:
    """An operator whose growth of this run is exact up to the rounding of its dtype, or that may change the function
    by new layers.
    """
    low = ("default", "none", "split") if has_separate() else ("none",)
    known = SEPARATIONS.get(run.dtype, low) if is_first else (*low, *(("0.1",) if run.dtype == "float64" else ()))
    while True:
        found = operators.drawn(random, run.subject, known)
        if is_first or "--layers" not in found.words:
            begun = random.choice(MOMENTS) if has_moments() else ()
            found = replace(found, words=(*found.words, *begun))
            changes = found.kind == "depth" and is_first and may_change and random.random() < 0.25
            return replace(found, new=random.choice(CHANGING)) if changes else found


def make_peculiar(random: Random, how: str, state: State) -> None:
    """Moments as real runs have them: tiny, of many sizes, zero, or none."""
    for optimizer in state.optimizers:
        for parameter, record in list(optimizer.state.items()):
            chosen = random.random() < 0.3
            if how == "missing" and chosen:
                del optimizer.state[parameter]
            for key in SECOND_MOMENTS:
                if key not in record or how in ("none", "missing"):
                    continue
                _rescale(how, record, key, chosen)


def _rescale(how: str, record: dict[str, Any], key: str, chosen: bool) -> None:
    """First moments go with the second ones' roots, as far as the dtype has them."""
    second = record[key].double()
    match how:
        case "tiny":
            factor = torch.full_like(second, 1e-12 if chosen else 1e-4)
        case "spread":
            exponents = torch.linspace(-10.0, 0.0, second.shape[0], dtype=torch.float64)
            factor = torch.pow(10.0, exponents).reshape(-1, *[1] * (second.dim() - 1)).expand_as(second)
        case _:
            factor = torch.full_like(second, 0.0 if chosen else 1.0)
    record[key] = (second * factor).to(record[key].dtype)
    if "exp_avg" in record and key == "exp_avg_sq":
        record["exp_avg"] = (record["exp_avg"].double() * factor.sqrt()).to(record["exp_avg"].dtype)


def words_of(said: str) -> str:
    """What verify says of the difference."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    telling = [line for line in lines if any(word in line.lower() for word in ("fail", "differ", "expected", "worst"))]
    return " / ".join(telling or lines[-4:])[:600]
