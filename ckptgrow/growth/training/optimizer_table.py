"""The optimizers whose state can be grown: by which rule learning rates keep the trajectory of each
(`growth.training.learning_rates`).

Which optimizer a group is of, and what the entries of its records are, says `state.optimizer_kinds`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptgrow.errors import OptimizerError, listing
from ckptgrow.state.optimizer_kinds import KINDS, Entry, keys_in, recognised, shown_by
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup

LrKind = Literal["normalised", "gradient", "orthogonal", "adafactor", "none"]


@dataclass(frozen=True)
class OptimizerRow:
    """One optimizer's rule.

    `coupled`: whether weight decay is added to the gradient (L2), where no option `decoupled_weight_decay` says it.
    """

    name: str
    lr: LrKind
    coupled: bool = False
    also_scaled: Mapping[str, int] = field(default_factory=dict[str, int])  # options in powers of the gradient

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What each entry of a record is in terms of the gradient."""
        return next(kind.entries for kind in KINDS if kind.name == self.name)


ROWS: tuple[OptimizerRow, ...] = (
    OptimizerRow("NAdam", "normalised", coupled=True),
    OptimizerRow("Adam", "normalised"),
    OptimizerRow("AdamW", "normalised"),
    OptimizerRow("AdamW of transformers", "normalised"),
    OptimizerRow("DeepSpeedCPUAdam", "none"),  # its groups do not say whether weight decay is added to the gradient
    OptimizerRow("LAMB", "none"),
    OptimizerRow("FusedAdam", "none"),
    OptimizerRow("Adamax", "normalised", coupled=True),
    OptimizerRow("RAdam", "normalised", coupled=True),
    OptimizerRow("an optimizer with Adam's averages", "none"),
    OptimizerRow("Lion", "normalised"),
    OptimizerRow("Adagrad", "normalised", coupled=True, also_scaled={"initial_accumulator_value": 2}),
    OptimizerRow("RMSprop", "normalised", coupled=True),
    OptimizerRow("Muon", "orthogonal"),
    OptimizerRow("SGD", "gradient", coupled=True),
    OptimizerRow("Adafactor", "adafactor"),
    OptimizerRow("Adafactor of transformers", "adafactor"),
)


def row_of(state: OptimizerState, group: ParameterGroup) -> OptimizerRow:
    """The row of a group.

    Raises OptimizerError, which names the keys, where no known optimizer has these options, or none with these options
    has the entries of its records.
    """
    keys = keys_in(state, group)
    kind = recognised(group.options, keys)
    if kind is not None:
        return next(row for row in ROWS if row.name == kind.name)
    kinds = shown_by(group.options, keys)
    if kinds:
        unknown = min((keys - set(kind.entries) for kind in kinds), key=len)
        raise OptimizerError(
            f"no rule for the state {listing(unknown)}, expected {listing(kinds[0].entries)} as in "
            f"{kinds[0].name}; leave the optimizer out with ⟦reset optimizer⟧"
        )
    raise OptimizerError(
        f"no optimizer known with options {listing(_telling(group.options))} and state {listing(keys)}, "
        f"expected one of {listing((row.name for row in ROWS), limit=len(ROWS))}; leave it out with ⟦reset optimizer⟧"
    )


def is_coupled(row: OptimizerRow, options: Mapping[str, Any]) -> bool:
    """Whether weight decay goes through the gradient; Adam groups that do not say so are taken for AdamW's."""
    decoupled = options.get("decoupled_weight_decay")
    return row.coupled if decoupled is None else not decoupled


def _telling(options: Collection[str]) -> list[str]:
    return [name for name in options if name not in ("lr", "initial_lr", "params", "weight_decay", "maximize", "fused")]
