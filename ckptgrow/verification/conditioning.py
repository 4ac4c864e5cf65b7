"""How much rounding the grown function multiplies: measured, in the dtypes in which people train.

Terms that cancel over the copies (noise) cancel only while the copies' activations are equal to the last bit. In real
arithmetic these differ by rounding, and every matrix with noise multiplies the difference; a deep model can lose its
function altogether. Weights that are dealt out with more than the whole to one copy multiply it by a little over one
each; weights that are dealt out whole, or shared evenly, multiply nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ckptgrow.state.model import load_model
from ckptgrow.state.opening import TrainingState, open_state
from ckptgrow.verification.magnitude import largest
from ckptgrow.verification.samples import logits_of, sample_batches

DTYPES = (torch.float32, torch.bfloat16)
BORNE = 3.0  # times the small model's own error
FLOOR = 1e-5  # of the largest logit: below it no run can tell


@dataclass(frozen=True)
class Conditioning:
    """Errors of the logits in one dtype, relative to the largest logit of the small model in float32."""

    dtype: torch.dtype
    small: float
    grown: float

    @property
    def is_borne(self) -> bool:
        """Whether the grown model rounds not much worse than the small one."""
        return self.grown <= max(BORNE * self.small, FLOOR)

    def sentence(self, what: str) -> str:
        """What a user should know of what separates the copies, as "noise 1"."""
        name = str(self.dtype).removeprefix("torch.")
        found = f"in {name} precision the grown model's logits are off by {self.grown:.1e} of the largest"
        own = f"the small model's by {self.small:.1e}" if self.small else "the small model's are the reference"
        if self.is_borne:
            return f"{found} ({own}): {what} is borne"
        return (
            f"{found} ({own}): {what} multiplies rounding beyond what {name} bears; use less, or --separate split with "
            "its own spread, which multiplies nothing"
        )


def conditioning(
    small: Path, grown: Path, *, config: Path | None = None, dialect: str | None = None
) -> list[Conditioning]:
    """Runs both models on the same two sequences, in float32 and in bfloat16, one model in memory at a time.

    `config`: a config.json for the small checkpoint, where it has none itself; `dialect`: that of both, where
    their names alone do not tell.
    """
    states = open_state(small, config=config, dialect=dialect), open_state(grown, dialect=dialect)
    sample = sample_batches(states[0], 1, None)[0]
    logits = [[_logits(state, sample, dtype) for dtype in DTYPES] for state in states]
    exact = logits[0][0]
    return [
        Conditioning(dtype, *_errors([logits[0][index], logits[1][index]], exact)) for index, dtype in enumerate(DTYPES)
    ]


def _logits(state: TrainingState, sample: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    model = load_model(state.checkpoint, state.claim, state.config, dtype, "cpu")
    with torch.no_grad():
        return logits_of(model, sample).double()


def _errors(found: Sequence[torch.Tensor], exact: torch.Tensor) -> tuple[float, float]:
    small, grown = (largest(one - exact) / max(largest(exact), 1e-30) for one in found)
    return small, grown
