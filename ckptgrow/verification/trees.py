"""Where two trees of plain values and tensors differ."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ckptgrow.checkpoints.opaque import Opaque
from ckptgrow.checkpoints.tensors import LazyTensor, whole
from ckptgrow.checkpoints.tree import path_text

Keys = tuple[object, ...]


def differences(old: Any, new: Any, keys: Keys) -> Iterator[str]:
    """One line for every place at which `new` is not `old`: what is there and what was expected.

    Tensors are equal where every bit is; NaN equals NaN.
    """
    old, new = _plain(old), _plain(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in new:
                yield f"{path_text((*keys, key))} is missing, expected {_shown(old[key])}"
            elif key not in old:
                yield f"{path_text((*keys, key))} is {_shown(new[key])}, expected no such key"
            else:
                yield from differences(old[key], new[key], (*keys, key))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, (*keys, index))
    elif not _are_equal(old, new):
        yield f"{path_text(keys)} is {_shown(new)}, expected {_shown(old)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        return vars(value)
    if isinstance(value, Opaque):
        return dict(enumerate(part for _, part in value.parts()))
    return dict(value) if isinstance(value, Mapping) else value


def _are_equal(old: Any, new: Any) -> bool:
    if isinstance(old, LazyTensor) and isinstance(new, LazyTensor):
        if old.shape != new.shape or old.dtype != new.dtype:
            return False
        return bool(torch.equal(_bits(old), _bits(new)))
    if type(old) is not type(new):
        return False
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new):
        return True
    return bool(old == new)


def _bits(tensor: LazyTensor) -> torch.Tensor:
    return whole(tensor).contiguous().reshape(-1).view(torch.uint8)


def _shown(value: Any) -> str:
    text = f"a tensor of shape {list(value.shape)}" if isinstance(value, LazyTensor) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
