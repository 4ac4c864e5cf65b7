"""Learning curves under a law at a fixed number of tokens a step.

S steps at a batch B do the work of S_min = S / (1 + B_crit(L)/B), so that a model of N parameters reaches a loss L
after u(N, L) · (B + B_crit(L)) tokens (Kaplan et al., arXiv 2001.08361, equation 5.4); where a law counts tokens, after
u(N, L).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ckptgrow.planning.laws import Law

Vector = npt.NDArray[np.float64]
GRID = np.linspace(-25.0, 4.0, 4000)  # log of the loss above the model's limit, in nats


def tokens_to(law: Law, size: Any, loss: Any, batch: float) -> Any:
    """The tokens that a model needs from scratch to a loss; floats or arrays."""
    per_unit = 1.0 if law.measure == "tokens" else batch + law.critical_batch(loss)
    return law.data(size, loss) * per_unit


def loss_after(law: Law, size: float, tokens: Vector, batch: float) -> Vector:
    """The losses of a model of N parameters after so many tokens from scratch, shape of `tokens`."""
    above = np.exp(GRID)
    needed = np.log(tokens_to(law, size, law.limit(size) + above, batch))
    order = slice(None, None, -1)  # more tokens, less loss
    return law.limit(size) + np.exp(np.interp(np.log(tokens), needed[order], GRID[order]))
