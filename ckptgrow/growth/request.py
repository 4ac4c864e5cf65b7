"""What a user may ask for in any growth, besides the new sizes, and what a growth returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptgrow.choices import DecayRule, FreshMoments, LrRule, LrRuleName, MomentRule, Part, StepWord
from ckptgrow.errors import RequestError
from ckptgrow.ranges import check
from ckptgrow.storage.files.targets import DEFAULT_SHARD_BYTES

if TYPE_CHECKING:
    from ckptgrow.formats.checkpoint import Checkpoint
    from ckptgrow.formats.growth_log import GrowthRecord

StepChoice = int | StepWord


@dataclass(frozen=True, kw_only=True)
class StateRequest:
    """How the training state is carried over.

    `step`: the schedule step to go on from; "keep" leaves it, "auto" divides it by the operator's ρ. `rewarm`: steps
    over which the learning rate rises again from there. `reset`: parts to leave out of the grown checkpoint; "new"
    leaves out the moments of entries whose row, column or layer is new, which are then zero. `moments`: old moments
    become those that the grown model would have gathered, or stay unscaled, in copies too. `wd_rule`: how decoupled
    weight decay follows learning rates under `lr_rule` "mup" (see `learning_rates`); "completed-p" is "mup" whose decay
    is that rule's own.
    `fresh_moments`: second moments of entries that copy nothing, zero or the mean of their row or column; first ones
    are zero. `max_shard_bytes` bounds the files of a Hugging Face directory's weights. `schedule`: what the user says
    of a LambdaLR's function (see `step_functions`).
    """

    lr_rule: LrRuleName = "keep"
    step: StepChoice = "keep"
    rewarm: int = 0
    reset: tuple[Part, ...] = ()
    config: Path | None = None
    param_order: Path | None = None
    dialect: str | None = None
    drop: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    force: bool = False
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    fresh_moments: FreshMoments = "zero"
    schedule: str = ""
    moments: MomentRule = "algebra"
    wd_rule: DecayRule = "trajectory"

    def check(self) -> None:
        """Raises RequestError for numbers that cannot be, and for what contradicts itself."""
        check("step", self.step)
        check("rewarm", self.rewarm)
        if "optimizer" in self.reset and (self.begins_anew or self.moments != "algebra"):
            other = "⟦reset new⟧" if self.begins_anew else f"⟦moments {self.moments}⟧"
            raise RequestError(f"⟦reset optimizer⟧ leaves out all moments, expected no {other} beside it; choose one")
        if self.wd_rule != "trajectory" and self.lr_rule == "completed-p":
            raise RequestError(
                f"⟦wd_rule {self.wd_rule}⟧: ⟦lr_rule completed-p⟧ leaves lr · wd as it is, expected ⟦lr_rule mup⟧"
            )
        if self.wd_rule != "trajectory" and self.lr_rule == "keep":
            raise RequestError(
                f"⟦wd_rule {self.wd_rule}⟧: ⟦lr_rule keep⟧ leaves weight decay too, expected ⟦lr_rule mup⟧"
            )
        if self.begins_anew and self.fresh_moments != "zero":
            raise RequestError(
                f"⟦fresh_moments {self.fresh_moments}⟧ fills what ⟦reset new⟧ makes zero, expected one of them"
            )

    @property
    def rates(self) -> LrRule:
        """The rule that learning rates follow, under its own name."""
        return "mup" if self.lr_rule == "completed-p" else self.lr_rule

    @property
    def begins_anew(self) -> bool:
        """Whether what is new begins with zero moments."""
        return "new" in self.reset


@dataclass(frozen=True, kw_only=True)
class GrowthResult:
    """What a growth did; `notes` are sentences that a user should read, `config` is the grown model's. `out` is None
    where nothing was written: `grown` is the checkpoint then, its tensors still to be made.
    """

    out: Path | None
    old: Mapping[str, int]
    new: Mapping[str, int]
    num_parameters: tuple[int, int]
    trapped: bool
    lr_rule: LrRule
    step: tuple[int | None, int | None]
    record: GrowthRecord
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    grown: Checkpoint | None = None
