"""What bounds a probe, as somebody typed it: a budget, or steps. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ckptgrow.errors import RequestError


def read_budget(text: str) -> tuple[float, bool]:
    """A budget, and whether it is a share in percent rather than FLOPs; raises RequestError for anything else."""
    is_share = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError as error:
        raise RequestError(f"⟦budget {text}⟧: expected a share as 2%, or FLOPs as 1e15") from error
    if not 0 < value < float("inf"):
        raise RequestError(f"⟦budget {text}⟧: expected more than 0")
    return value, is_share


def check_steps(steps: Sequence[int]) -> tuple[int, ...]:
    """Rungs that a user gives; raises RequestError where they do not rise."""
    if not steps or steps[0] < 1 or any(one >= other for one, other in pairwise(steps)):
        raise RequestError(f"⟦steps {','.join(map(str, steps))}⟧: expected steps that rise, as 64,256,1024")
    return tuple(steps)
