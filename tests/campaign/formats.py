"""One state in several formats: growth gives the same numbers in each, and conversion gives the state back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.campaign import operators, runs, subjects
from tests.campaign.commands import grown
from tests.campaign.files import FORMATS, STEPLESS, Reading, read, save
from tests.campaign.operators import Operator
from tests.campaign.outcome import FindingError
from tests.campaign.precision import EXACT, difference
from tests.campaign.resumption import records, resumed
from tests.campaign.runs import Run

WORDS = {"lightning": "lightning", "huggingface": "huggingface", "trainer": "huggingface", "dcp": "dcp"}


def tried(seed: int, directory: Path, told: dict[str, Any]) -> None:
    """One draw. Raises FindingError or RefusedError."""
    random = Random(f"formats {seed}")
    run = runs.drawn(random, families=tuple(one for one in subjects.FAMILIES if one != "vit"))
    kind = "AdamW" if run.recipe.kind == "Muon" else run.recipe.kind
    run = replace(run, recipe=replace(run.recipe, kind=kind, grouping=random.choice(["one", "by dimension"])))
    operator = operators.drawn(random, run.subject)
    first, second = random.sample(FORMATS, 2)
    if {first, second} & STEPLESS:
        operator = replace(operator, step="keep")
    told |= {"run": run.told(), "operator": asdict(operator), "formats": [first, second]}
    state = runs.trained(run)
    if random.random() < 0.4:
        told["formats"] = [first, second, first]
        _there_and_back(run, directory, save(directory / "there", state, first), first, second)
        return
    readings = []
    for form in (first, second):
        place = directory / form
        place.mkdir()
        grown(operator.command, save(place / "small", state, form), place / "grown", operator.options)
        readings.append(read(place / "grown", form))
    _same(run, operator, (first, second), readings[0], readings[1])


def _same(run: Run, operator: Operator, forms: tuple[str, str], one: Reading, other: Reading) -> None:
    """Weights and, where both have them, records to the bit; drawn numbers of experts go by how a file keeps them."""
    if run.subject.model_type in subjects.EXPERTS and (operator.is_separated or operator.kind == "pad"):
        if not difference(one.model, other.model) <= EXACT and run.dtype == "float64" and not operator.is_noisy:
            raise FindingError("the function depends on the format")
        return
    _same_tensors(one.tensors, other.tensors)
    if one.optimizers and other.optimizers:
        found = records(resumed(one, run.recipe), one)
        _same_records(found, records(resumed(other, run.recipe), other))


def _same_tensors(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    for name in one.keys() | other.keys():
        if name not in one or name not in other or not _equal(one[name], other[name]):
            raise FindingError(f"{name} depends on the format")


def _same_records(one: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> None:
    if one.keys() != other.keys():
        raise FindingError(f"records of {sorted(one.keys() ^ other.keys())[:3]} depend on the format")
    for name, record in one.items():
        for key, value in record.items():
            if key not in other[name] or not _equal(torch.as_tensor(value), torch.as_tensor(other[name][key])):
                raise FindingError(f"{key} of {name} depends on the format")


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.double(), other.double()))


def _there_and_back(run: Run, directory: Path, path: Path, first: str, second: str) -> None:
    """Converts to the other kind and back: parameters, moments and groups are what they were."""
    if {first, second} == {"huggingface", "trainer"}:
        return
    grown("convert", path, directory / "middle", ("--to", WORDS[second]))
    grown("convert", directory / "middle", directory / "back", ("--to", WORDS[first]))
    before, after = read(path, first), read(directory / "back", first)
    _same_tensors(before.tensors, after.tensors)
    if before.optimizers and second != "huggingface":
        if not after.optimizers:
            raise FindingError(f"the optimizer is lost on the way to {second} and back")
        _same_records(records(resumed(before, run.recipe), before), records(resumed(after, run.recipe), after))
