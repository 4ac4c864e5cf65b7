"""Scaling laws L = E + a·N^−α + b·u^−β: of steps u = S_min (Kaplan et al.) or of tokens u = D (Hoffmann et al.).

N is the number of parameters without embeddings. Every function takes floats and NumPy values, complex ones too, so
that its derivatives can be checked by complex steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Measure = Literal["steps", "tokens"]
Number = Any  # float, complex, or an array of them


@dataclass(frozen=True, kw_only=True)
class Law:
    """L(N, u) = E + a·N^−α + b·u^−β, in nats.

    `measure`: whether u counts "steps" S_min (at a much larger batch than the critical one) or "tokens". With
    `batch_scale` B* (tokens) and `batch_exponent` α_B, the critical batch size is B_crit(L) = B*·L^(−1/α_B).
    `smallest_fitted` and `largest_fitted`: the sizes N of the models that its constants were fitted to.
    """

    name: str
    floor: float  # E
    size_scale: float  # a
    size_exponent: float  # α
    data_scale: float  # b
    data_exponent: float  # β
    measure: Measure
    batch_scale: float | None = None
    batch_exponent: float | None = None
    smallest_fitted: float | None = None
    largest_fitted: float | None = None

    def extrapolates(self, size: float) -> bool:
        """Whether a model of N parameters is smaller or larger than all that the law was fitted to."""
        return size < (self.smallest_fitted or 0.0) or size > (self.largest_fitted or math.inf)

    @property
    def has_critical_batch(self) -> bool:
        """Whether the law has a critical batch size."""
        return self.batch_scale is not None and self.batch_exponent is not None

    def loss(self, size: Number, data: Number) -> Number:
        """The loss L(N, u) in nats."""
        return self.limit(size) + self.data_scale * data**-self.data_exponent

    def limit(self, size: Number) -> Number:
        """The loss that a model of N parameters approaches with infinite data: E + a·N^−α."""
        return self.floor + self.size_scale * size**-self.size_exponent

    def limit_by_log_size(self, size: Number) -> Number:
        """d limit / d log N = −α·a·N^−α."""
        return -self.size_exponent * self.size_scale * size**-self.size_exponent

    def data(self, size: Number, loss: Number) -> Number:
        """The u that a model of N parameters needs from scratch to reach a loss: (b / (L − limit))^(1/β)."""
        return (self.data_scale / (loss - self.limit(size))) ** (1 / self.data_exponent)

    def data_by_log_size(self, size: Number, loss: Number) -> Number:
        """d u / d log N at a fixed loss."""
        above = loss - self.limit(size)
        return self.data(size, loss) * self.limit_by_log_size(size) / (self.data_exponent * above)

    def data_by_loss(self, size: Number, loss: Number) -> Number:
        """d u / d L at a fixed N."""
        return -self.data(size, loss) / (self.data_exponent * (loss - self.limit(size)))

    def critical_batch(self, loss: Number) -> Number:
        """B_crit(L) in tokens; raises ValueError for a law that has none."""
        if self.batch_scale is None or self.batch_exponent is None:
            raise ValueError(f"{self.name} has no critical batch size")
        return self.batch_scale * loss ** (-1 / self.batch_exponent)

    def smallest_size(self, loss: float) -> float:
        """The N whose limit is this loss, so that smaller models never reach it; infinite where no model does."""
        above = loss - self.floor
        return float("inf") if above <= 0 else float((self.size_scale / above) ** (1 / self.size_exponent))

    def efficient_loss(self, size: Number) -> Number:
        """The loss that a model of N parameters reaches with less compute than any other model.

        There 6·N·u(N, L) is stationary in N: L − limit = (α/β)·a·N^−α.
        """
        return self.limit(size) + self.size_exponent / self.data_exponent * self.size_scale * size**-self.size_exponent

    def options(self) -> dict[str, object]:
        """The constants by name, as files hold them."""
        return {name: value for name, value in vars(self).items() if value is not None}


def _kaplan(name: str, critical_size: float, size_exponent: float) -> Law:
    """(N_c/N)^α_N + (S_c/S_min)^α_S with the constants that all of Kaplan et al.'s fits share."""
    return Law(
        name=name,
        floor=0.0,
        size_scale=critical_size**size_exponent,
        size_exponent=size_exponent,
        data_scale=2.1e3**0.76,  # S_c = 2.1e3 steps
        data_exponent=0.76,
        measure="steps",
        batch_scale=2.1e8,  # tokens
        batch_exponent=0.21,
        smallest_fitted=768,  # section 3
        largest_fitted=1.5e9,
    )


LAWS: Mapping[str, Law] = {
    # Kaplan et al., "Scaling Laws for Neural Language Models", arXiv 2001.08361, equations 1.6 and 5.3, table 3
    "kaplan": _kaplan("kaplan", 6.5e13, 0.077),
    # Its appendix A's L(N) with its L(S_min): the constants of the released code of Shen et al., arXiv 2203.06211
    "staged-training": _kaplan("staged-training", 8.8e13, 0.076),
    # Hoffmann et al., "Training Compute-Optimal Large Language Models", arXiv 2203.15556, equation 10, appendix D.3
    "hoffmann": Law(
        name="hoffmann",
        floor=1.69,
        size_scale=406.4,
        size_exponent=0.34,
        data_scale=410.7,
        data_exponent=0.28,
        measure="tokens",
        smallest_fitted=7e7,  # the abstract
        largest_fitted=1.6e10,
    ),
    # Besiroglu et al., "Chinchilla Scaling: A replication attempt", arXiv 2404.10102: fitted to the same models anew
    "besiroglu": Law(
        name="besiroglu",
        floor=1.8172,
        size_scale=482.01,
        size_exponent=0.3478,
        data_scale=2085.43,
        data_exponent=0.3658,
        measure="tokens",
        smallest_fitted=7e7,
        largest_fitted=1.6e10,
    ),
}


def unit_cost(law: Law, batch: float | None, loss: float) -> float | None:
    """The tokens that a unit of u costs at a fixed batch; None where the batch is the critical one at each loss.

    S steps at a batch B do the work of S_min = S / (1 + B_crit/B) (Kaplan et al., equation 5.4, B_crit at the final
    loss), so that a unit of S_min costs B + B_crit tokens. A unit of D is a token.
    """
    if law.measure == "tokens":
        return 1.0
    return None if batch is None else batch + float(law.critical_batch(loss))


def cost(law: Law, loss: Number, unit: float | None) -> Number:
    """The tokens that a unit of u costs where training ends at a loss; at the critical batch 2·B_crit(L)."""
    return 2.0 * law.critical_batch(loss) if unit is None else unit + 0.0 * loss


def cost_by_loss(law: Law, loss: Number, unit: float | None) -> Number:
    """d cost / d L."""
    if unit is not None or law.batch_exponent is None:
        return 0.0 * loss
    return -cost(law, loss, None) / (law.batch_exponent * loss)


def compute_to(law: Law, size: Number, loss: Number, unit: float | None) -> Number:
    """The FLOPs from scratch to a loss, 6·N·tokens."""
    return 6.0 * size * cost(law, loss, unit) * law.data(size, loss)


def slope(law: Law, size: Number, loss: Number, unit: float | None) -> Number:
    """The slope d log L / d log C of a model's own curve, where C is the compute to each loss."""
    by_log_loss = loss * (
        law.data_by_loss(size, loss) / law.data(size, loss) + cost_by_loss(law, loss, unit) / cost(law, loss, unit)
    )
    return 1 / by_log_loss
