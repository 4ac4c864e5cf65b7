"""How unequally a weight is shared out among the copies that read it, as the numbers show.

Where one of c copies has (1 − s)/c + s of a weight and each other one (1 − s)/c, the entries' squared distances from
even shares sum to s² (1 − 1/c) of the weight's square, whichever copy is the drawn one. So s is measured without
knowing the draws, and every entry must then be one of the two shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ckptgrow.verification.magnitude import power

Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # what is found, the whole weight there, the number of copies


def measured_strength(parts: Iterable[Part]) -> float:
    """The s of the module's head over a tensor's parts, of equal shapes each; 0 where nothing has copies."""
    squares = expected = 0.0
    for found, whole, counts in parts:
        squares += power(torch.where(counts > 1, found - whole / counts, 0.0))
        expected += power(whole * torch.sqrt((1 - 1 / counts) / counts))
    return math.sqrt(squares / expected) if expected > 0 else 0.0


def distance_from_shares(part: Part, strength: float) -> torch.Tensor:
    """How far every entry is from the nearer one of its two shares."""
    found, whole, counts = part
    least = (1 - strength) / counts
    return torch.minimum((found - whole * least).abs(), (found - whole * (least + strength)).abs())
