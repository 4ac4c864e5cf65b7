"""The optimizers whose state can be grown: by which rule learning rates keep the trajectory of each
(`growth.training.learning_rates`).

Which optimizer a group is of, and what the entries of its records are, says `state.optimizer_kinds`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptgrow.errors import OptimizerError, listing
from ckptgrow.state.optimizer_kinds import KINDS, Entry, OptimizerKind, keys_in, recognised, shown_by
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup

LrKind = Literal["normalised", "gradient", "orthogonal", "adafactor", "trust", "layer scale", "bases", "none"]


@dataclass(frozen=True)
class Power:
    """By which powers an option changes: of the gradient's factor, of the learning rate's ratio (or the option that
    holds this power), and of the factor by which updates must change.
    """

    gradient: int = 0
    rate: int | str = 0
    update: int = 0


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """One optimizer's rule.

    `coupled`: whether weight decay is added to the gradient (L2), where no option `decoupled_by` says it;
    `also_scaled`: options that are in units of the gradient, the rate or the update; `reason`: why there is no rule.
    """

    name: str
    lr: LrKind
    coupled: bool = False
    also_scaled: Mapping[str, Power] = field(default_factory=dict[str, Power])
    decoupled_by: str = "decoupled_weight_decay"
    reason: str = ""

    @property
    def kind(self) -> OptimizerKind:
        """What is known of it besides."""
        return next(kind for kind in KINDS if kind.name == self.name)

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What each entry of a record is in terms of the gradient."""
        return self.kind.entries


_OF_AVERAGES = {"lr_max": Power(rate=1), "scheduled_lr": Power(rate=1), "weight_sum": Power(rate="weight_lr_power")}
ROWS: tuple[OptimizerRow, ...] = (
    OptimizerRow(name="AdamWScheduleFree", lr="normalised", also_scaled=_OF_AVERAGES),
    OptimizerRow(name="RAdamScheduleFree", lr="none", reason="its first steps are those of plain gradients"),
    OptimizerRow(name="SGDScheduleFree", lr="gradient", coupled=True, also_scaled=_OF_AVERAGES),
    OptimizerRow(
        name="Prodigy", lr="none", reason="it takes one learning rate for all groups, and estimates that itself"
    ),
    OptimizerRow(
        name="DAdaptAdam",
        lr="layer scale",
        coupled=True,
        also_scaled={"layer_scale": Power(update=1)},
        decoupled_by="decouple",
    ),
    OptimizerRow(name="Adan", lr="normalised"),
    OptimizerRow(name="SOAP", lr="bases"),
    OptimizerRow(name="SophiaG", lr="normalised", also_scaled={"rho": Power(gradient=-1)}),
    OptimizerRow(name="AdamW of bitsandbytes", lr="normalised"),
    OptimizerRow(name="SGD of bitsandbytes", lr="gradient", coupled=True),
    OptimizerRow(name="Lion of bitsandbytes", lr="normalised"),
    OptimizerRow(name="RMSprop of bitsandbytes", lr="normalised", coupled=True),
    OptimizerRow(name="Adagrad of bitsandbytes", lr="normalised", coupled=True),
    OptimizerRow(name="NAdam", lr="normalised", coupled=True),
    OptimizerRow(name="Adam", lr="normalised"),
    OptimizerRow(name="AdamW", lr="normalised"),
    OptimizerRow(name="AdamW of transformers", lr="normalised"),
    OptimizerRow(
        name="DeepSpeedCPUAdam", lr="none"
    ),  # its groups do not say whether weight decay is added to the gradient
    OptimizerRow(name="LAMB", lr="trust"),
    OptimizerRow(name="FusedAdam", lr="none"),
    OptimizerRow(name="Adamax", lr="normalised", coupled=True),
    OptimizerRow(name="RAdam", lr="normalised", coupled=True),
    OptimizerRow(name="an optimizer with Adam's averages", lr="none"),
    OptimizerRow(name="Lion", lr="normalised"),
    OptimizerRow(
        name="Adagrad", lr="normalised", coupled=True, also_scaled={"initial_accumulator_value": Power(gradient=2)}
    ),
    OptimizerRow(name="RMSprop", lr="normalised", coupled=True),
    OptimizerRow(name="Muon", lr="orthogonal"),
    OptimizerRow(name="NorMuon", lr="orthogonal", coupled=True, decoupled_by="weight_decouple"),
    OptimizerRow(name="AdamW beside Muon", lr="normalised", coupled=True, decoupled_by="weight_decouple"),
    OptimizerRow(name="SGD", lr="gradient", coupled=True),
    OptimizerRow(name="Adafactor", lr="adafactor"),
    OptimizerRow(name="Adafactor of transformers", lr="adafactor"),
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
    decoupled = options.get(row.decoupled_by)
    return row.coupled if decoupled is None else not decoupled


def _telling(options: Collection[str]) -> list[str]:
    return [name for name in options if name not in ("lr", "initial_lr", "params", "weight_decay", "maximize", "fused")]
