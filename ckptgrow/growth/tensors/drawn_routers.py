"""Routers of experts that are new: normal draws, one row for all experts that are parts of one block."""

from __future__ import annotations

import numpy as np
import torch

from ckptgrow.growth.operator import Routers
from ckptgrow.storage.tensors import LazyTensor, Made, Zeros


def drawn_router(shape: tuple[int, ...], dtype: torch.dtype, routers: Routers, key: int) -> LazyTensor:
    """A router, shape (experts, hidden), whose rows r · G to r · G + G − 1 are one row of normal draws, by the
    generator's key; G is `routers.shards`.
    """
    if routers.deviation == 0:
        return Zeros(shape, dtype)

    def row(block: int) -> torch.Tensor:
        bits = np.random.Philox(key=key, counter=[0, 0, 0, block])
        draws = np.random.Generator(bits).standard_normal(shape[1])
        return torch.from_numpy(routers.deviation * draws).to(dtype)

    def rows(start: int, stop: int) -> torch.Tensor:
        return torch.stack([row(expert // routers.shards) for expert in range(start, stop)])

    return Made(shape, dtype, rows)
