"""The growth operators under a scaling law: by how much they multiply parameters, at which loss to grow, and their ρ.

Of two models with N and r·N parameters, the small one should be trained as long as it lowers the loss with less compute
than the large one would. Growth at loss L saves C(r·N, L) − C(N, L). This is largest where both models need the same
compute to lower the loss a little further. τ is the slope d log L / d log C of the small model's curve there, and
ρ = S(N, L) / S(r·N, L).

Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, section 4; its notebooks find
τ by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ckptgrow.choices import OperatorName
from ckptgrow.errors import needs
from ckptgrow.planning.laws import Law, compute_to, slope

POWERS: Mapping[OperatorName, int] = {"depth": 1, "width": 2, "both": 3}  # of the factor, in 12 · layers · hidden²
# Found by hand on simulated curves and confirmed on real ones, by the source
THRESHOLDS: Mapping[OperatorName, float] = {"depth": -0.0575, "width": -0.0475, "both": -0.03}
OPTIMALITY = -0.052


@dataclass(frozen=True)
class GrowthStep:
    """An operator and its whole factor: of the hidden size, of the number of layers, or of both."""

    operator: OperatorName
    factor: int

    @property
    def ratio(self) -> int:
        """By how much it multiplies the parameters without embeddings."""
        return self.factor ** POWERS[self.operator]


@dataclass(frozen=True, kw_only=True)
class Constants:
    """A growth's constants under a law.

    `tau` and `loss`: the slope and the loss at which it saves most; `rho`: steps before over steps after it; `saving`:
    the saved share of the compute with which the large model alone reaches its most efficient loss.
    """

    growth: GrowthStep
    tau: float
    rho: float
    loss: float
    saving: float


def growths(operators: Iterable[OperatorName], max_factor: int) -> tuple[GrowthStep, ...]:
    """Every operator with every whole factor; of those with the same ratio only the first."""
    choices: dict[int, GrowthStep] = {}
    for operator in operators:
        for factor in range(2, max_factor + 1):
            one = GrowthStep(operator, factor)
            choices.setdefault(one.ratio, one)
    return tuple(choices[ratio] for ratio in sorted(choices))


def constants(law: Law, growth: GrowthStep, large: float, unit: float | None) -> Constants:
    """The constants of a growth to `large` parameters; `unit` as `laws.unit_cost` gives it."""
    small = large / growth.ratio
    limit = float(law.limit(small))

    def advantage(above: float) -> float:
        """The logarithm of the compute that the large model needs for a little less loss, over the small one's."""
        loss = limit + np.exp(above)
        price = [
            np.log(compute_to(law, size, loss, unit)) - np.log(-slope(law, size, loss, unit)) for size in (large, small)
        ]
        return float(price[0] - price[1])

    loss = limit + math.exp(_root(advantage, -30.0, 10.0))
    saved = compute_to(law, large, loss, unit) - compute_to(law, small, loss, unit)
    return Constants(
        growth=growth,
        tau=float(slope(law, small, loss, unit)),
        rho=rho_at(law, growth, large, loss),
        loss=loss,
        saving=float(saved / compute_to(law, large, law.efficient_loss(large), unit)),
    )


def rho_at(law: Law, growth: GrowthStep, large: float, loss: float) -> float:
    """The steps of the small model over those of the large one at the same loss."""
    return float(law.data(large / growth.ratio, loss) / law.data(large, loss))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    with needs("plan law", "plan"):
        from scipy.optimize import brentq
    return float(brentq(function, low, high))  # pyright: ignore[reportArgumentType]
