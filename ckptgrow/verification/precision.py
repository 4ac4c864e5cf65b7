"""How exact a comparison can be: by the coarsest dtype that took part."""

from __future__ import annotations

from collections.abc import Iterable

import torch

# Relative to the largest value of what is compared: a few hundred roundings of each dtype, which is what sums over
# thousands of terms in another order leave.
TOLERANCES = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# One rounding of a stored value, and the sum of two.
STORED_TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The floating dtype with the largest rounding error (float64 where there is none)."""
    floating = [dtype for dtype in dtypes if dtype in TOLERANCES]
    return max(floating, key=TOLERANCES.__getitem__, default=torch.float64)
