"""Optimizer state of a mixture, made of that of a dense model that computes the same (see `mixture_terms`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ckptgrow.errors import OptimizerError
from ckptgrow.formats.raw_optimizers import Record
from ckptgrow.state.claim import Claim
from ckptgrow.state.mixture_terms import MixtureTensor, MixtureTerms
from ckptgrow.state.optimizer_kinds import Entry, OptimizerKind, keys_in, recognised
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import InMemory, LazyTensor, Zeros, is_lazy, whole

POWERS: Mapping[Entry, int] = {"gradient": 1, "magnitude": 1, "square": 2, "direction": 0}  # of the gradient's factor
NUMBERS: Mapping[Entry, float] = {"step": 0.0, "momentum product": 1.0}  # with what they begin as
WAY_OUT = "leave the optimizer out with ⟦reset optimizer⟧"


def mixture_state(state: OptimizerState, terms: MixtureTerms, dense: Claim, mixture: Claim) -> OptimizerState:
    """The state of the mixture's optimizer, with the same groups, in the mixture's order where the dense one's are.

    Raises OptimizerError for entries that cannot follow a parameter's units, and for parts of one tensor that are in
    different groups or at different steps.
    """
    places = [{one.name: place for place, one in enumerate(claim.tensors)} for claim in (dense, mixture)]
    groups = tuple(_group(group, state, terms, places) for group in state.groups)
    records = {name: record for name, record in state.state.items() if name in terms.kept}
    for term in terms.terms:
        if term.gate.name in state.state and term.gate.name in state.names:
            records[term.name] = _record(term, state)
    return replace(state, groups=groups, state=records)


def _group(
    group: ParameterGroup, state: OptimizerState, terms: MixtureTerms, places: Sequence[Mapping[str, int]]
) -> ParameterGroup:
    """A group with the mixture's tensors where those that they are made of were."""
    at: dict[str, list[str]] = {}
    for term in terms.terms:
        sources = [one.name for one in term.sources] or [term.gate.name]
        own = [state.group_of.get(name) for name in sources]
        if any(one is not own[0] for one in own):
            raise OptimizerError(f"{' and '.join(sources)} are in different groups, expected one; {WAY_OUT}")
        at.setdefault(sources[0], []).append(term.name)
    kept = {*terms.kept}
    names = [new for name in group.names for new in ([name] if name in kept else at.get(name, []))]
    if list(group.names) == sorted(group.names, key=places[0].__getitem__):
        names.sort(key=places[1].__getitem__)
    return replace(group, names=tuple(names))


def _record(term: MixtureTensor, state: OptimizerState) -> Record:
    """The record of one tensor; raises OptimizerError where it cannot follow those that it is made of."""
    sources = term.sources or (term.gate,)
    records = [state.state.get(one.name, {}) for one in sources]
    group = state.group_of[sources[0].name]
    kind = recognised(group.options, keys_in(state, group))
    _check(kind, records, [one.name for one in sources], state)
    assert kind is not None
    return {key: _entry(term, kind.entries[key], key, records, state.has_group_steps) for key in records[0]}


def _check(kind: OptimizerKind | None, records: Sequence[Record], names: Sequence[str], state: OptimizerState) -> None:
    known = {*POWERS, *NUMBERS}
    strange = [key for key in records[0] if kind is None or kind.entries.get(key) not in known]
    if kind is None or strange:
        raise OptimizerError(
            f"{', '.join(strange) or 'the record'} of {names[0]} cannot be parted among experts, expected averages of "
            f"gradients, one a weight; {WAY_OUT}"
        )
    if kind.name == "Muon":
        raise OptimizerError(
            f"{names[0]} is trained by Muon, which takes matrices, expected another optimizer: experts are in tensors "
            f"of three axes; {WAY_OUT}"
        )
    if any(record.keys() != records[0].keys() for record in records):
        raise OptimizerError(f"the records of {' and '.join(names)} have different entries, expected the same")


def _entry(term: MixtureTensor, entry: Entry, key: str, records: Sequence[Record], has_group_steps: bool) -> Any:
    values = [record[key] for record in records]
    if entry in NUMBERS:
        if any(_number(one) != _number(values[0]) for one in values):
            raise OptimizerError(f"{key} of {term.gate.name} differs within its block, expected one; {WAY_OUT}")
        is_kept = has_group_steps or not term.part.is_young
        return values[0] if is_kept else _like(values[0], NUMBERS[entry])
    if values[0] is None:
        return None  # a momentum that has seen no gradient
    tensors: list[LazyTensor] = [one for one in values if is_lazy(one)]
    if term.part.is_young or len(tensors) < len(values):
        return Zeros(term.shape, values[0].dtype)
    return term.made(tensors, term.part.factor ** -POWERS[entry])


def _number(value: Any) -> float:
    return float(whole(value)) if is_lazy(value) else float(value)


def _like(value: Any, number: float) -> Any:
    """A number in the form that the record has: a plain number, or a tensor."""
    return InMemory(torch.full_like(whole(value), number)) if is_lazy(value) else type(value)(number)
