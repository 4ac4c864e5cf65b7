"""Tensors between a trainer's names and forms and transformers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptgrow.errors import RequestError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.terms import Terms
from ckptgrow.storage.tensors import LazyTensor, Zeros, whole


def in_transformers_forms(terms: Terms, theirs: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Transformers' tensors in the order of the trainer's; what it lacks is zero and stands after its neighbour."""
    dtype = next(iter(theirs.values())).dtype
    place = {name: index for index, name in enumerate(theirs)}
    made: dict[str, LazyTensor] = {}
    order: dict[str, int] = {}
    last = 0
    for term in terms.weights:
        if term.is_absent:
            tensors: Sequence[LazyTensor] = [Zeros(shape, dtype) for shape in term.form.shapes]
        else:
            last = place[term.theirs[0]]
            parts = [theirs[name] for name in term.theirs]
            tensors = parts if term.row.is_renaming else term.form.ours(parts)
        made |= dict(zip(term.ours, tensors, strict=True))
        order |= dict.fromkeys(term.ours, last)
    return {name: made[name] for name in sorted(made, key=order.__getitem__)}


def in_trainers_forms(terms: Terms, checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """A trainer's tensors by name, of a checkpoint in transformers' terms.

    Raises RequestError for what the trainer has no tensor for, and where one that it lacks is not zero.
    """
    ours = checkpoint.tensors
    term_of = {name: term for term in terms.weights for name in term.ours}
    strangers = [name for name in ours if name not in term_of]
    if strangers:
        raise RequestError(f"{checkpoint.path}: {terms.cover.dialect.name} has no place for {listing(strangers)}")
    made: dict[str, LazyTensor] = {}
    for name, tensor in ours.items():
        term = term_of[name]
        if term.is_absent:
            if bool(whole(tensor).any()):
                raise RequestError(f"{checkpoint.path}: {name} is not zero, expected zeros: its trainer has none")
        elif term.theirs[0] not in made:
            parts = [ours[part] for part in term.ours]
            tensors = parts if term.row.is_renaming else term.form.theirs(parts)
            made |= dict(zip(term.theirs, tensors, strict=True))
    order = terms.module_order
    return {name: made[name] for name in sorted(made, key=order.__getitem__)} if order else made
