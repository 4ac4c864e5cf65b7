"""Read → grow → write: the only file that opens both ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ckptgrow.distributed import processes
from ckptgrow.errors import RequestError, listing
from ckptgrow.families.family import Family
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.known_formats import check_output, write_checkpoint
from ckptgrow.formats.left_behind import check_left_behind
from ckptgrow.growth.carried_state import check_carried, check_schedules, without_best
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.padding import first_update_note
from ckptgrow.growth.parameters import Descent, descents, grown_tensors, in_pieces
from ckptgrow.growth.request import Grown, StateRequest
from ckptgrow.growth.tensors.grown_tensors import Finite, Guard, unguarded
from ckptgrow.growth.training.grown_moments import StepClock, grown_state
from ckptgrow.growth.training.grown_schedulers import (
    check_sets_alone,
    clock_at,
    grown_scheduler,
    moved,
    optimizer_of,
    with_schedule,
)
from ckptgrow.growth.training.learning_rates import Origin, with_rates
from ckptgrow.growth.training.step_functions import course
from ckptgrow.growth.training.weight_sizes import WeightSizes
from ckptgrow.progress import Progress
from ckptgrow.state.opening import TrainingState, open_state
from ckptgrow.state.optimizer_state import OptimizerState, without_record
from ckptgrow.state.sizes import num_layers, sizes_of
from ckptgrow.storage.fingerprint import Fingerprint
from ckptgrow.storage.tensors import num_elements
from ckptgrow.version import __version__

LATEST_STEP = 10**7  # schedules are run up to it
OperatorFor = Callable[[Family, Mapping[str, Any], str], Operator]


def grow(
    source: Path, target: Path, operator_for: OperatorFor, request: StateRequest, rho: float, progress: Progress
) -> Grown:
    """Grows a whole training state from one path to another; `rho` is the operator's step constant for `auto`."""
    check_output(source, target, force=request.force)
    processes().wait()  # all have looked before one writes
    old = open_state(
        source, config=request.config, drop=request.drop, param_order=request.param_order, reset=request.reset
    )
    lost = check_left_behind(old.checkpoint, is_reset="optimizer" in request.reset)
    operator = operator_for(old.family, old.config, str(source))
    guard: Guard = unguarded if request.allow_nonfinite else Finite
    lineage = descents(old.claim, operator)
    fingerprint = Fingerprint(old.stored)
    joined = old.pieces.joined(fingerprint.tensors)
    tensors = grown_tensors(lineage, joined, old.claim, operator, str(source), guard)
    unread = check_carried(old, lineage)
    step = _new_step(old.checkpoint.global_step, request, rho)
    own = {one.name for one in old.claim.parameters}
    sizes = WeightSizes(old.checkpoint.tensors, tensors)
    if old.optimizers and (request.lr_rule == "mup" or step != old.checkpoint.global_step):
        check_schedules(old)
    states, schedulers, notes = _grown_training(old, lineage, sizes, request, step, guard)
    carried, best = without_best(old.checkpoint.carried)
    notes += best
    if old.checkpoint.left_behind:
        notes.append(f"left behind in {source}: {listing(old.checkpoint.left_behind)}")
    if lost:
        notes.append(f"training state that the grown checkpoint does without: {listing(lost)}")
    unrecorded = without_record(old.optimizers, [one.name for one in old.claim.parameters])
    if unrecorded:
        notes.append(f"the optimizer has no record of {listing(unrecorded)}: frozen, or lost?")
    if unread:
        notes.append(
            f"carried as bytes, for they cannot be looked into: {listing(unread)}; leave out with --drop what holds "
            "copies of the weights"
        )
    record = _record(operator, request, (old.checkpoint.global_step, step), fingerprint)
    record["sizes"] = sizes_of(old.family, operator.config, str(source))
    if any(one.growth.has_fresh for one in lineage):
        notes += first_update_note(states, request.fresh_moments)
        record["fresh_moments"] = request.fresh_moments
    new = replace(
        old.checkpoint,
        tensors=in_pieces(tensors, lineage, old.pieces, fingerprint.tensors, operator, str(source), guard),
        config=operator.config,
        optimizers=tuple(state.to_torch(_names_in_module(old.checkpoint, lineage)) for state in states),
        schedulers=tuple(schedulers),
        carried=carried,
        global_step=step,
        growth=_growth_entry(old.checkpoint, record, request, step),
        source=fingerprint,
    )
    write_checkpoint(new, target, progress, request.max_shard_bytes, force=request.force)
    return Grown(
        out=target,
        old=_reported(old.family, old.config, str(source)),
        new=_reported(old.family, operator.config, str(source)),
        num_parameters=(
            sum(num_elements(old.checkpoint.tensors[one.name]) for one in old.claim.parameters),
            sum(num_elements(tensors[one.name]) for one in lineage if one.old.name in own),
        ),
        trapped=operator.trapped,
        lr_rule=request.lr_rule,
        step=(old.checkpoint.global_step, step),
        notes=tuple(notes),
        record={**record, "source_sha256": fingerprint.value()} if processes().rank == 0 else record,
    )


def _grown_training(
    old: TrainingState,
    lineage: Sequence[Descent],
    sizes: WeightSizes,
    request: StateRequest,
    step: int | None,
    guard: Guard,
) -> tuple[list[OptimizerState], list[dict[str, Any]], list[str]]:
    """Optimizers, schedulers and what the user should know of them."""
    source, moves = old.checkpoint.path, step != old.checkpoint.global_step
    notes = [] if old.optimizers else ["it has no optimizer state: the weights alone were grown"]
    states: list[OptimizerState] = []
    schedulers: list[dict[str, Any]] = []
    origins: list[tuple[Origin, ...]] = []
    for index, state in enumerate(old.optimizers):
        where = f"{source}: optimizer {index}"
        clock = StepClock(step if moves else None)
        grown = grown_state(state, lineage, sizes, clock, where, guard, request.fresh_moments)
        grown, origin = with_rates(grown, lineage, sizes, request.lr_rule, where)
        states.append(grown)
        origins.append(origin)
    raws, named = old.checkpoint.schedulers, course(request.schedule)
    if named is not None and not moves:
        raise RequestError(
            f"--schedule {request.schedule}: says what moves with the step, expected with --step; leave it out"
        )
    for index, raw in enumerate(raws):
        where = f"{source}: scheduler {index}"
        place = optimizer_of(index, raws, old.optimizers)
        if place is None:
            if states and (moves or request.lr_rule == "mup"):
                raise RequestError(
                    f"{where}: could set the rates of any of {len(states)} optimizers, expected one a scheduler; use "
                    "--lr-rule keep and --step keep, or --reset schedule"
                )
            schedulers.append(dict(raw))
            continue
        grown_raw = grown_scheduler(raw, origins[place], len(old.optimizers[place].groups), where)
        if moves and step is not None:
            check_sets_alone(index, place, raws, old.optimizers, where)
            clock = clock_at(raw, (old.checkpoint.global_step or 0, step), where)
            scheduled = moved(grown_raw, clock, states[place], where, named)
            grown_raw, states[place] = scheduled.state, with_schedule(states[place], scheduled)
            notes += [scheduled.note] if scheduled.note else []
        schedulers.append(grown_raw)
    if request.lr_rule == "mup" and old.checkpoint.kind == "trainer":
        notes.append(
            "the optimizer has one group a learning rate now, where the Trainer makes two: give it one with these "
            "groups (see the README), or use --lr-rule keep"
        )
    if request.rewarm:
        notes.append(
            f"the learning rate rises again over {request.rewarm} steps in `ckptgrow train` and in schedules wrapped "
            "by ckptgrow.train (see the README); other scripts do not see it"
        )
    return states, schedulers, notes


def _names_in_module(old: Checkpoint, lineage: Sequence[Descent]) -> dict[str, str]:
    """The module's names of grown tensors that a directory may call otherwise."""
    if old.order == "file":
        return {}
    return {one.name: one.old.module_name(None if one.old.layer is None else one.index) for one in lineage}


def _new_step(old: int | None, request: StateRequest, rho: float) -> int | None:
    if request.step == "keep":
        return old
    if old is None:
        raise RequestError(f"--step {request.step}: the checkpoint has no global step to move")
    if request.step != "auto" and request.step > LATEST_STEP:
        raise RequestError(f"--step {request.step}: expected a step up to {LATEST_STEP}")
    return round(old / rho) if request.step == "auto" else request.step


def _record(
    operator: Operator, request: StateRequest, steps: tuple[int | None, int | None], fingerprint: Fingerprint
) -> dict[str, Any]:
    return {
        **operator.record,
        "lr_rule": request.lr_rule,
        "step": list(steps),
        "rewarm": request.rewarm,
        "reset": list(request.reset),
        "drop": list(request.drop),
        **({"schedule": request.schedule} if request.schedule else {}),
        "version": __version__,
        "torch": str(torch.__version__),
        "source_sha256": fingerprint.placeholder,
    }


def _growth_entry(old: Checkpoint, record: dict[str, Any], request: StateRequest, step: int | None) -> dict[str, Any]:
    rewarm = {"start": step, "steps": request.rewarm} if request.rewarm and step is not None else None
    return {"version": __version__, "history": [*old.history, record], "rewarm": rewarm, "global_step": step}


def _reported(family: Family, config: Mapping[str, Any], where: str) -> dict[str, int]:
    own = {space: size for space, size in sizes_of(family, config, where).items() if family.sizes[space].same is None}
    return {"layers": num_layers(family, config, where), **own}
