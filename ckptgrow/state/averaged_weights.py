"""The average of the weights that a checkpoint holds beside them, as a model of its own."""

from __future__ import annotations

from dataclasses import replace

from ckptgrow.errors import RequestError, listing
from ckptgrow.state.claim import Claim
from ckptgrow.state.opening import TrainingState


def averaged(state: TrainingState) -> TrainingState:
    """The same checkpoint with the average in the place of its weights, and without the optimizers that moved these.

    Raises RequestError where there is no average, or more than one.
    """
    own = state.claim.model
    prefixes = list(dict.fromkeys(one.prefix for one in state.claim.tensors if one.prefix != own[0].prefix))
    if len(prefixes) != 1:
        found = f"averages under {listing(prefixes)}" if prefixes else "no average of its weights"
        raise RequestError(f"{state.where}: holds {found}, expected one; leave ⟦averaged⟧ out")
    names = {one.canonical: one.name for one in state.claim.tensors if one.prefix == prefixes[0]}
    kept = tuple(one for one in own if one.canonical in names)
    tensors = {one.name: state.checkpoint.tensors[names[one.canonical]] for one in kept}
    claim = Claim(state.claim.family, kept, {head: of for head, of in state.claim.tied.items() if head in tensors})
    checkpoint = replace(state.checkpoint, tensors=tensors, optimizers=(), schedulers=(), scaler=None)
    return replace(state, checkpoint=checkpoint, claim=claim, optimizers=(), stored=tensors)
