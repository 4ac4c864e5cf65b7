"""Tensors that a config makes one: a file may hold both, and then they need not be equal.

Where an embedding and its head differ, transformers 5 loads them as two, whatever the config says
(`PreTrainedModel.tie_weights`); so they are two here, and the grown config says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ckptgrow.errors import ClaimError
from ckptgrow.families.family import Family
from ckptgrow.state.claim import Claim, claim
from ckptgrow.storage.tensors import LazyTensor, chunks


def claim_tensors(
    family: Family, config: dict[str, Any], tensors: Mapping[str, LazyTensor], where: str
) -> tuple[dict[str, Any], Claim]:
    """The claim of all tensors, and the config, which says that the head is not tied where it is not.

    Raises ClaimError for other tensors that should be one and differ, and whatever `claim` raises.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    claimed = claim(family, config, shapes, where)
    differing = [name for name, twin in claimed.tied.items() if not _equal(tensors[name], tensors[twin])]
    if not differing:
        return config, claimed
    head = family.tie.head if family.tie is not None else None
    heads = [one.name for one in claimed.tensors if one.name in claimed.tied and one.canonical == head]
    if family.tie is None or not heads or not set(heads) <= set(differing):
        name = next(one for one in differing if one not in heads or not set(heads) <= set(differing))
        raise ClaimError(
            f"{where}: {name} differs from {claimed.tied[name]}, expected one tensor under both names, as "
            f"{family.model_type} has it; leave out the one that is not meant with ⟦drop NAME⟧"
        )
    untied = {**config, family.tie.config: False}
    return untied, claim(family, untied, shapes, where)


def _equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors of one shape hold the same numbers; NaN equals NaN."""
    if one is other or one == other:
        return True
    return all(_same(one.rows(start, stop), other.rows(start, stop)) for start, stop in chunks(one))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
