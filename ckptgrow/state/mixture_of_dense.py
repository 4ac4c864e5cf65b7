"""A dense model's state as that of a mixture that computes the same: its experts are parts of the dense blocks.

What grows a mixture then grows this one, and what verifies one verifies it.
"""

from __future__ import annotations

from dataclasses import replace

from ckptgrow.errors import OptimizerError, RequestError, at
from ckptgrow.families.family import Family
from ckptgrow.spaces.layout import parse
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Claim, Claimed, claim
from ckptgrow.state.mixture_optimizers import mixture_state
from ckptgrow.state.mixture_terms import MixtureTerms
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.pieces import Pieces

SAVED_MODELS = ("huggingface", "trainer", "accelerate")  # kinds whose weights have the names that transformers writes


def as_mixture(dense: TrainingState, mixture: Architecture) -> TrainingState:
    """The state of a mixture as `mixture_config.mixture_architecture` gives it for the dense one, which it keeps as
    `dense`.

    Raises RequestError for files in another trainer's terms, and OptimizerError for an optimizer that cannot follow.
    """
    if dense.checkpoint.kind == "live":
        raise RequestError(
            f"{dense.where}: keeps its class, {dense.family.model_type}, and a mixture is of another, expected a "
            "checkpoint; save it, and use ckptgrow experts"
        )
    if dense.translation is not None:
        raise RequestError(
            f"{dense.where}: is in the terms of {dense.translation.dialect.trainer}, which knows no such mixture; "
            "convert it first (ckptgrow convert ⟦to huggingface⟧)"
        )
    dtypes = {name: one.dtype for name, one in dense.checkpoint.tensors.items()}
    is_saved_model = dense.checkpoint.kind in SAVED_MODELS
    terms = MixtureTerms.of(dense.claim, mixture, dtypes, is_saved_model=is_saved_model)
    tensors = terms.tensors(dense.checkpoint.tensors)
    found = claim(mixture, {name: one.shape for name, one in tensors.items()}).in_module_order()
    instances = list(dict.fromkeys(one.prefix for one in dense.claim.tensors))  # the model itself is the first
    ordered = sorted(found.tensors, key=lambda one: instances.index(one.prefix))
    own = Claim(mixture.family, tuple(ordered), found.tied)
    with at(dense.where, OptimizerError):
        optimizers = tuple(mixture_state(one, terms, dense.claim, own) for one in dense.optimizers)
    return replace(
        dense,
        checkpoint=replace(dense.checkpoint, tensors=tensors, config=mixture.config),
        architecture=mixture,
        claim=own,
        optimizers=optimizers,
        pieces=_pieces(mixture.family, own.tensors) if is_saved_model else Pieces({}),
        terms=terms,
        dense=dense,
    )


def _pieces(family: Family, tensors: tuple[Claimed, ...]) -> Pieces:
    """The names under which files hold the first expert's parts, from which those of all others follow."""
    parts: dict[str, tuple[tuple[Claimed, ...], ...]] = {}
    rows = {row.name: row.parts for row in family.pieces}
    for one in tensors:
        if one.pattern in rows:
            parts[one.name] = (tuple(_piece(one, part.name, part.layout) for part in rows[one.pattern]),)
    return Pieces(parts)


def _piece(whole: Claimed, pattern: str, layout: str) -> Claimed:
    first = pattern.replace("{expert}", "0")
    end, other = (one.partition("{layer}.")[2] for one in (whole.pattern, first))
    name, template, bare = (one.removesuffix(end) + other for one in (whole.name, whole.template, whole.bare))
    return replace(whole, name=name, template=template, bare=bare, pattern=first, inner=first, layout=parse(layout))
