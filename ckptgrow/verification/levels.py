"""How far a pair is verified: what is stored alone, the function too, or gradients and trajectories as well.

stored      Every weight, moment, rate, schedule and other key, by the factors that the weights show. No model is built.
function    Both models' logits too, with the weights of one layer in memory at a time.
full        Autograd in both models confirms the factors of the gradients, and how far the copies differ.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import psutil
import torch

from ckptgrow.choices import VerifyLevel
from ckptgrow.state.opening import TrainingState
from ckptgrow.storage.tensors import num_elements
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.report import VerifyReport

SHARE = 0.9  # of the memory that is free
MODELS = 2.0  # numbers a parameter in the models' dtype: its weight and its gradient
COMPARED = 5.0  # bytes a parameter while models are read and gradients compared (measured: 124M grown to 419M)
LOGITS = 3.0  # numbers a logit: of both models, and their difference


def full_bytes(pair: Pair, dtype: torch.dtype, batches: Sequence[torch.Tensor]) -> int:
    """Some estimate of the memory that a full verification takes, in bytes."""
    states = (pair.small, pair.grown)
    weights = sum(_num_weights(state) for state in states) * (MODELS * dtype.itemsize + COMPARED)
    tokens = max(batch.numel() for batch in batches) if batches[0].dtype == torch.int64 else 0
    return int(weights + LOGITS * tokens * pair.grown.architecture.sizes.get("vocab", 0) * dtype.itemsize)


def free_bytes() -> int:
    """The memory that this machine can give now, and that the process may take (`ulimit -d`), in bytes."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return min(int(psutil.virtual_memory().available), allowed if allowed >= 0 else sys.maxsize)


def fullest(needed: int, free: int) -> VerifyLevel:
    """The fullest level for which memory suffices."""
    return "full" if needed <= SHARE * free else "function"


def not_computed(report: VerifyReport, short: tuple[int, int] | None) -> list[str]:
    """Sentences on what the report's level left out; `short`: needed and free bytes, where memory chose it."""
    if report.level == "full":
        return []
    missing = "gradients" if report.level == "function" else "logits and gradients"
    found = f"level {report.level}: {missing} of the two models were not computed"
    if short is not None:
        needed, free = (f"{number / 2**30:.1f} GiB" for number in short)
        found += f", since a full verification takes some {needed} of memory and {free} are free"
    if report.moments is not None:
        found += "; moments were judged by the factors that the weights show"
    return [found]


def layered(needed: int) -> str:
    """A sentence on gradients that were taken layer by layer; `needed`: bytes that both models would have taken."""
    return (
        f"gradients were taken layer by layer, since both models at once take some {needed / 2**30:.1f} GiB of memory "
        f"and {free_bytes() / 2**30:.1f} GiB are free"
    )


def _num_weights(state: TrainingState) -> int:
    return sum(num_elements(state.checkpoint.tensors[one.name]) for one in state.claim.parameters)
