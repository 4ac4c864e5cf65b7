"""Tensors that are one tensor by the config, but that a file may hold as two, which need not be equal.

Where an embedding and its head differ, transformers 5 loads them as two, whatever the config says
(`PreTrainedModel.tie_weights`); so they are two here, and the grown config says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ckptgrow.errors import ClaimError
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Claim, claim
from ckptgrow.storage.tensors import LazyTensor, bytes_of, chunks


def claim_tensors(architecture: Architecture, tensors: Mapping[str, LazyTensor]) -> tuple[Architecture, Claim]:
    """The claim of all tensors, and the architecture, whose config says that the head is not tied where it is not.

    Raises ClaimError for other tensors that should be one and differ, and whatever `claim` raises.
    """
    family = architecture.family
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    claimed = claim(architecture, shapes)
    differing = [name for name, twin in claimed.tied.items() if not _equal(tensors[name], tensors[twin])]
    if not differing:
        return architecture, claimed
    head = family.tie.head if family.tie is not None else None
    heads = [one.name for one in claimed.tensors if one.name in claimed.tied and one.canonical == head]
    if family.tie is None or not heads or not set(heads) <= set(differing):
        name = next(one for one in differing if one not in heads or not set(heads) <= set(differing))
        raise ClaimError(
            f"{architecture.where}: {name} differs from {claimed.tied[name]}, expected one tensor under both names, as "
            f"{family.model_type} has it; leave out the one that is not meant with ⟦drop NAME⟧"
        )
    untied = architecture.with_config({**architecture.config, family.tie.config: False})
    return untied, claim(untied, shapes)


def _equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors of one shape hold the same numbers; NaN equals NaN."""
    if one is other or one == other:
        return True
    return all(_same(one.rows(start, stop), other.rows(start, stop)) for start, stop in chunks(one))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    first, second = (np.frombuffer(bytes_of(rows), np.uint8) for rows in (one, other))
    if one.dtype == other.dtype and np.array_equal(first, second):
        return True  # as nearly always; one pass in one thread, where torch's would wait for each other by spinning
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
