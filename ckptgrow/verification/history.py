"""The record of the growths: what it claims is held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ckptgrow.families.sizes import sizes_of
from ckptgrow.verification.pair import Pair, growths_since
from ckptgrow.verification.trees import differences

OPERATORS = ("width", "depth")


def history_problems(pair: Pair, lr_rule: str | None, *, are_apart: bool) -> list[str]:
    """What is missing in the record, or contradicts the weights, the rates or the clock."""
    old, new = pair.small.checkpoint.history, pair.grown.checkpoint.history
    problems = list(differences(old, new[: len(old)], ("history",)))
    since = growths_since(pair.small, pair.grown)
    if not since:
        return [*problems, "no growth is recorded, expected the record of one"]
    return [*problems, *_clock(pair, since), *_sizes(pair, since), *_rule(since, lr_rule), *_apart(since, are_apart)]


def resets(pair: Pair) -> set[str]:
    """The parts that a growth was asked to leave out: "optimizer", "schedule"."""
    return {str(part) for record in growths_since(pair.small, pair.grown) for part in record.get("reset", ())}


def dropped(pair: Pair) -> set[str]:
    """The keys and files that a growth was asked to leave out."""
    return {str(part) for record in growths_since(pair.small, pair.grown) for part in record.get("drop", ())}


def _clock(pair: Pair, since: list[Mapping[str, Any]] | Any) -> Iterator[str]:
    step = pair.small.checkpoint.global_step
    for record in since:
        if record.get("operator") not in OPERATORS:
            yield f"the record's operator is {record.get('operator')!r}, expected {' or '.join(OPERATORS)}"
        recorded = record.get("step")
        if not isinstance(recorded, list) or len(recorded) != 2 or recorded[0] != step:
            yield f"the record's step is {recorded}, expected it to begin at {step}"
            return
        step = recorded[1]
    if step != pair.grown.checkpoint.global_step:
        yield f"global_step is {pair.grown.checkpoint.global_step}, expected {step} as recorded"
    rewarm, asked = pair.grown.checkpoint.growth.get("rewarm"), since[-1].get("rewarm")
    expected = {"start": step, "steps": asked} if asked and step is not None else None
    if rewarm != expected:
        yield f"rewarm is {rewarm}, expected {expected} as recorded"


def _sizes(pair: Pair, since: Any) -> Iterator[str]:
    grown = pair.grown
    recorded, found = since[-1].get("sizes"), sizes_of(grown.family, grown.config, grown.where)
    if recorded != found:
        yield f"the record's sizes are {recorded}, expected {found}"


def _rule(since: Any, lr_rule: str | None) -> Iterator[str]:
    recorded = {record.get("lr_rule") for record in since}
    if lr_rule is not None and lr_rule not in recorded and recorded != {"mup", "keep"}:
        yield f"the record's lr_rule is {listed(recorded)}, expected {lr_rule} by the groups"


def listed(values: set[Any]) -> str:
    """Values by commas, sorted."""
    return ", ".join(sorted(map(str, values)))


def _apart(since: Any, are_apart: bool) -> Iterator[str]:
    separations = {record.get("separate") for record in since if record.get("operator") == "width"}
    if are_apart and separations <= {"none"}:
        yield "the record says that nothing tells the copies apart, expected equal copies"
