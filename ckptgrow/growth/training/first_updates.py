"""How large the first updates of entries are whose moments begin anew while their parameter's clock goes on.

Under a steady gradient g, Adam and its kin divide, after n updates from zero moments at step t of the clock,

    m = (1 − β₁ⁿ) g / (1 − β₁^(t+n))        by        √v = √((1 − β₂ⁿ) / (1 − β₂^(t+n))) |g|

so an update is larger than lr where β₂'s average is the slower one: for β = (0.9, 0.999) at a late step 3.2 lr at first
and 6.5 lr at the tenth, for (0.9, 0.95) 0.45 lr at first and 1.1 lr at most. Second moments that are the mean of old
ones count as grown: √v = |g|.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptgrow.choices import FreshMomentRule
from ckptgrow.growth.growing import Growing
from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.storage.tensors import is_lazy, whole

MOST_UPDATES = 10_000  # that are looked at: β₁'s average is grown long before
MOMENTS: Mapping[FreshMomentRule, str] = {
    "zero": "zero moments",
    "mean": "zero first and mean second moments",
    "rare": "zero first moments and the second moments of rare rows",
}
STRIKING = 1.0  # lr: larger updates than any of a run that has trained for long


@dataclass(frozen=True)
class FirstUpdates:
    """Sizes of updates in units of the learning rate: the first, the largest, and which one that is, from 1."""

    first: float
    largest: float
    number: int

    @classmethod
    def of(cls, beta1: float, beta2: float, step: float, fresh_moments: FreshMomentRule = "zero") -> FirstUpdates:
        """From zero first moments at a step of the clock.

        >>> FirstUpdates.of(0.9, 0.999, 1e6).number
        10
        """
        number = np.arange(1, MOST_UPDATES + 1)
        sizes = (1 - beta1**number) / (1 - beta1 ** (step + number))
        if fresh_moments == "zero":
            sizes = sizes * np.sqrt((1 - beta2 ** (step + number)) / (1 - beta2**number))
        largest = int(sizes.argmax())
        return cls(float(sizes[0]), float(sizes[largest]), largest + 1)


def first_update_notes(growing: Growing, optimizers: Sequence[OptimizerState]) -> list[str]:
    """What the user should know of entries that begin with moments of no gradient at a late step: those of old
    parameters, and of new ones where the file has one step for all of a group.
    """
    request, rule = growing.request, growing.fresh_moments
    begins_late = any(
        one.growth.has_fresh or (request.begins_anew and not one.growth.is_identity) for one in growing.lineage
    )
    has_new_layers = any(one.is_in_new_layer for one in growing.lineage)
    has_late_layers = has_new_layers and any(state.has_group_steps for state in optimizers)
    if rule not in MOMENTS or (not begins_late and not has_late_layers):
        return []
    found = [FirstUpdates.of(*clock, rule) for clock in set(_clocks(optimizers))]
    if not found:
        return []
    worst = max(found, key=lambda one: one.largest)
    where = "new entries of old tensors" if begins_late else "new layers, whose group has one step for all parameters,"
    note = f"{where} start with {MOMENTS[rule]}: under a steady gradient their first updates are "
    note += f"{worst.first:.2g} lr, and at most {worst.largest:.2g} lr, at update {worst.number}"
    return [note + ("; ⟦rewarm N⟧ makes them smaller" if worst.largest > STRIKING else "")]


def _clocks(optimizers: Sequence[OptimizerState]) -> Iterator[tuple[float, float, float]]:
    """β₁, β₂ and the latest step of every group whose records have Adam's averages."""
    for state in optimizers:
        if "exp_avg_sq" not in state.state_keys:
            continue
        for group in state.groups:
            steps = [_number(record["step"]) for name in group.names if "step" in (record := state.state.get(name, {}))]
            if "betas" in group.options and steps:
                beta1, beta2 = (_number(one) for one in group.options["betas"])
                if 0 <= beta1 < 1 and 0 < beta2 < 1:
                    yield beta1, beta2, max(steps)


def _number(value: object) -> float:
    return float(whole(value)) if is_lazy(value) else float(value)  # pyright: ignore[reportArgumentType]
