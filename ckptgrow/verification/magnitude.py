"""The size of a tensor as one number, in one pass over it."""

from __future__ import annotations

import math

import torch


def largest(tensor: torch.Tensor) -> float:
    """The largest magnitude of an entry; infinity where an entry is NaN, so that no comparison overlooks it."""
    low, high = torch.aminmax(tensor)
    value = max(abs(float(low)), abs(float(high)))
    return math.inf if math.isnan(value) else value


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected entry where that is not zero; infinity for NaN."""
    difference, scale = largest(found - expected), largest(expected)
    return difference / scale if 0 < scale < math.inf and difference < math.inf else difference


def power(tensor: torch.Tensor) -> float:
    """The sum of squares, in float64."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
