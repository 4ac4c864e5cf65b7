"""A checkpoint while it grows: what every part of growth needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ckptgrow.choices import FreshMomentRule
from ckptgrow.errors import RequestError
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.growth.lineage import Descent, descents
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.request import StateRequest
from ckptgrow.growth.tensors.grown_tensors import checked_finite
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.opening import TrainingState, understood
from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.storage.fingerprint import Fingerprint
from ckptgrow.storage.tensors import LazyTensor, is_lazy

LATEST_STEP = 10**7  # schedules are run up to it
OperatorFor = Callable[[Architecture], Operator]
Source = str | Path | Checkpoint


@dataclass(frozen=True, eq=False, kw_only=True)
class Growing:
    """All that the parts of one growth need.

    `old`: the checkpoint before growth, whose optimizer tensors are refused when they are read if they hold NaN or
    infinity; `operator`: how the model grows; `request`: what the user asks besides; `step`: the schedule step to go on
    from; `lineage`: every new tensor with the old one that it comes from; `fingerprint`: hashes the old tensors while
    they are read.
    """

    old: TrainingState
    operator: Operator
    request: StateRequest
    step: int | None
    lineage: tuple[Descent, ...]
    fingerprint: Fingerprint

    @property
    def where(self) -> str:
        """The old checkpoint's place, for messages."""
        return self.old.where

    @property
    def moves(self) -> bool:
        """Whether the schedule goes on from another step."""
        return self.step != self.old.checkpoint.position.global_step

    @property
    def changes_rates(self) -> bool:
        """Whether schedules must set other learning rates than they did."""
        return self.moves or self.request.rates == "mup"

    @property
    def fresh_moments(self) -> FreshMomentRule:
        """Which moments entries have that copy nothing."""
        asked = self.operator.fresh_moments or self.request.fresh_moments
        return "zero" if self.request.begins_anew else asked

    @cached_property
    def moment_rounding(self) -> float | None:
        """By what share of their block's largest number moments in 8 bits may be rounded; None where there are none."""
        maps = (one for state in self.old.optimizers for one in state.code_maps)
        return max((float(one.halves.max()) for one in maps), default=None)

    @cached_property
    def tensors(self) -> Mapping[str, LazyTensor]:
        """The old file's tensors by name; reading them hashes them, and refuses weights that are not finite."""
        hashed = self.fingerprint.tensors
        if self.request.allow_nonfinite:
            return hashed
        buffers = {one.name for one in self.old.claim.tensors if one.is_buffer}
        checked = {
            id(one): checked_finite(one, f"{self.where}: tensor {name}") for name, one in reversed(list(hashed.items()))
        }
        return {name: one if name in buffers else checked[id(one)] for name, one in hashed.items()}

    @cached_property
    def new_architecture(self) -> Architecture:
        """The grown model's architecture."""
        return self.old.architecture.with_config(self.operator.config)

    @cached_property
    def descent_of(self) -> Mapping[str, Descent]:
        """Every new tensor's descent, by its name."""
        return {one.name: one for one in self.lineage}


def opened(source: Path | Checkpoint, operator_for: OperatorFor, request: StateRequest) -> Growing:
    """Opens a checkpoint that is to grow, and works out what is asked for.

    Raises a CkptgrowError for a checkpoint or a request that is wrong, and where the two do not fit.
    """
    request.check()
    read = read_checkpoint(source) if isinstance(source, Path) else source
    old = understood(
        read,
        config=request.config,
        drop=request.drop,
        param_order=request.param_order,
        reset=request.reset,
        dialect=request.dialect,
    )
    operator = operator_for(old.architecture)
    old = operator.restates(old)
    if not request.allow_nonfinite:
        states = enumerate(old.optimizers)
        old = replace(old, optimizers=tuple(_checked(one, f"{read.path}: optimizer {index}") for index, one in states))
    step = _new_step(old.checkpoint.position.global_step, request, operator.rho)
    lineage = descents(old.claim, operator)
    is_same = dict(operator.config) == dict(old.config) or not operator.is_of_config
    if is_same and old.dense is None and all(one.layer.kind == "old" and one.growth.is_identity for one in lineage):
        is_there = dict(operator.config) == dict(old.config)
        found = (
            "the model has what was asked for already"
            if is_there
            else "no tensor of this model has a size that was asked for"
        )
        raise RequestError(f"{read.path}: {found}, expected another size")
    return Growing(
        old=old,
        operator=operator,
        request=request,
        step=step,
        lineage=lineage,
        fingerprint=Fingerprint(old.stored),
    )


def _checked(state: OptimizerState, where: str) -> OptimizerState:
    """An optimizer whose tensors are refused when they are read, if they are not finite."""
    return replace(
        state,
        state={
            name: {
                key: checked_finite(value, f"{where}: {key} of {name}")
                if is_lazy(value) and value.shape and value.dtype.is_floating_point
                else value
                for key, value in record.items()
            }
            for name, record in state.state.items()
        },
    )


def _new_step(old: int | None, request: StateRequest, rho: float) -> int | None:
    if request.step == "keep":
        return old
    if old is None:
        raise RequestError(f"⟦step {request.step}⟧: the checkpoint has no global step to move")
    if request.step != "auto" and request.step > LATEST_STEP:
        raise RequestError(f"⟦step {request.step}⟧: expected a step up to {LATEST_STEP}")
    return round(old / rho) if request.step == "auto" else request.step
