"""Moments that a file keeps in 8 bits: how far a number may be from the one that is expected, and whether the codes are
as fine as they can be.

A number that is rounded to the nearest code c of a block with scale s is at most s · h(c) from it, h(c) half the larger
distance from c to its neighbours. This bounds nothing where s is too large; so in every block whose scale is not zero,
some number must have a code at the end of the map.
"""

from __future__ import annotations

import torch

from ckptgrow.storage.code_blocks import InBlocks
from ckptgrow.storage.tensors import LazyTensor, Made, chunks, num_elements

AT_END = 0.99  # as a share of the scale: the signed map's lowest number is -0.993
SLACK = 1 + 1e-4  # the map and the scale are float32, and numbers between two codes may go to either


def allowances(tensor: LazyTensor) -> LazyTensor | None:
    """What rounding to 8 bits may leave of each number; None for a tensor that is kept as it is."""
    if not isinstance(tensor, InBlocks):
        return None
    found = tensor.roundings
    return Made(found.shape, found.dtype, lambda start, stop: found.rows(start, stop) * SLACK)


def are_coarse(tensor: LazyTensor) -> bool:
    """Whether a block's scale is larger than its numbers need."""
    if not isinstance(tensor, InBlocks):
        return False
    block = tensor.map.block
    magnitudes = tensor.scales.rows(0, tensor.scales.shape[0]).abs()
    largest = torch.zeros_like(magnitudes)
    done = 0
    for start, stop in chunks(tensor.codes):
        found = tensor.rows(start, stop).reshape(-1).abs()
        places = torch.arange(done, done + len(found)) // block
        largest.scatter_reduce_(0, places, found, "amax")
        done += len(found)
    assert done == num_elements(tensor)
    return bool((largest < AT_END * magnitudes).any())
