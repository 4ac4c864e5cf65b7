"""A whole growth from file to file: read, grow, write."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from ckptgrow.addresses.address import local_path
from ckptgrow.distributed import processes
from ckptgrow.errors import Message, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.growth_log import GrowthHistory, GrowthLog, GrowthRecord, Rewarm
from ckptgrow.formats.known_formats import check_output, write_checkpoint
from ckptgrow.formats.left_behind import check_left_behind
from ckptgrow.growth.carried_state import check_carried, without_best
from ckptgrow.growth.growing import Growing, OperatorFor, Source, opened
from ckptgrow.growth.grown_weights import grown_weights
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.growth.rounded_weights import rounding_notes
from ckptgrow.growth.training.first_updates import first_update_notes
from ckptgrow.growth.training.grown_training import grown_training
from ckptgrow.progress import Progress
from ckptgrow.spaces.growth import runs_of
from ckptgrow.state.optimizer_state import without_record
from ckptgrow.state.train_schedule import NEW_RISE
from ckptgrow.storage.files.json_files import Json
from ckptgrow.storage.tensors import num_elements
from ckptgrow.storage.tree import map_leaves
from ckptgrow.version import __version__


@dataclass(frozen=True, kw_only=True)
class _Grown:
    """The grown checkpoint before it is written.

    `num_parameters`: how many numbers the grown model has; `record`: what its history keeps of this growth; `notes`:
    sentences for the user.
    """

    checkpoint: Checkpoint
    num_parameters: int
    record: GrowthRecord
    notes: Sequence[str]
    begins_anew: bool  # copies have other moments than what they copy, which tells them apart


def grow(
    source: Source, target: str | Path | None, operator_for: OperatorFor, request: StateRequest, progress: Progress
) -> GrowthResult:
    """Grows a whole training state from one path to another. A checkpoint that was read takes the place of its path;
    without a target nothing is written, and the result holds the grown checkpoint, its tensors still to be made.
    """
    source = local_path(source) if isinstance(source, str | Path) else source
    if target is None:
        growing = opened(source, operator_for, request)
        return _result(growing, _in_trainers_terms(growing, _grown(growing)), None)
    target = Path(target)
    check_output(source if isinstance(source, Path) else source.path, target, force=request.force)
    processes().wait()  # all have looked before one writes
    growing = opened(source, operator_for, request)
    grown = _in_trainers_terms(growing, _grown(growing))
    write_checkpoint(grown.checkpoint, target, progress, request.max_shard_bytes, force=request.force)
    return _result(growing, grown, target)


def _in_trainers_terms(growing: Growing, grown: _Grown) -> _Grown:
    """What was grown, in the names and forms in which the source had it."""
    translation = growing.old.translation
    return grown if translation is None else replace(grown, checkpoint=translation.undone(grown.checkpoint))


def _grown(growing: Growing) -> _Grown:
    old, record = growing.operator.follows(growing.old.checkpoint), _record(growing)
    kept_notes = _kept_notes(growing)
    weights = grown_weights(growing)
    training = grown_training(growing, weights)
    carried, best_notes = without_best(old.carried)
    names = {one.name: one.module_name for one in growing.lineage} if old.order == "module" else {}
    own = {one.name for one in growing.old.claim.parameters}
    return _Grown(
        checkpoint=replace(
            old,
            tensors=weights.in_file,
            config=growing.operator.config,
            optimizers=tuple(state.to_raw(names) for state in training.optimizers),
            schedulers=training.schedulers,
            carried=carried,
            position=replace(old.position, global_step=growing.step),
            growth=GrowthHistory(_growth_log(growing, record), growing.fingerprint),
        ),
        num_parameters=sum(num_elements(weights.in_module[one.name]) for one in growing.lineage if one.old.name in own),
        record=record,
        notes=[
            *growing.operator.notes,
            *rounding_notes(growing, weights),
            *training.notes,
            *best_notes,
            *kept_notes,
            *first_update_notes(growing, training.optimizers),
        ],
        begins_anew=growing.request.begins_anew and any(state.state for state in training.optimizers),
    )


def _kept_notes(growing: Growing) -> list[str]:
    """Notes for the user on everything that does not grow.

    Raises CheckpointError for training state that would be left behind, and for parts that would have to grow but are
    only copied.
    """
    old, source = growing.old.checkpoint, growing.where
    notes: list[str] = []
    lost = check_left_behind(old, is_reset="optimizer" in growing.request.reset)
    unread = check_carried(growing.old, growing.lineage)
    if old.carried.left_behind:
        notes.append(f"left behind in {source}: {listing(old.carried.left_behind)}")
    if lost:
        notes.append(f"training state that the grown checkpoint does without: {listing(lost)}")
    unrecorded = without_record(growing.old.optimizers, growing.old.trained)
    if unrecorded:
        notes.append(f"the optimizer has no record of {listing(unrecorded)}: frozen, or lost?")
    if NEW_RISE in old.growth.log:
        peak = old.growth.log[NEW_RISE].get("peak")
        notes.append(
            f"what was new in the growth before had up to {peak} times the learning rate: that ends here, for the "
            "grown run's new entries are this growth's"
        )
    if unread:
        notes.append(
            f"carried as bytes, for they cannot be looked into: {listing(unread)}; leave out with ⟦drop⟧ what holds "
            "copies of the weights"
        )
    return notes


def _record(growing: Growing) -> GrowthRecord:
    """The record of this growth for the grown checkpoint's history."""
    request = growing.request
    record: GrowthRecord = {
        **growing.operator.record,
        "lr_rule": request.rates,
        "step": [growing.old.checkpoint.position.global_step, growing.step],
        "rewarm": request.rewarm,
        "reset": list(request.reset),
        "drop": list(request.drop),
        "version": __version__,
        "torch": str(torch.__version__),
        "source_sha256": growing.fingerprint.placeholder,
        "sizes": dict(growing.new_architecture.sizes),
    }
    if request.schedule:
        record["schedule"] = request.schedule
    if request.config is not None:
        record["source_config"] = cast("dict[str, Json]", dict(growing.old.as_read.architecture.config))
    if any(one.growth.has_fresh for one in growing.lineage):
        record["fresh_moments"] = growing.fresh_moments
    if growing.moment_rounding is not None:
        record["moment_rounding"] = growing.moment_rounding
    if request.moments != "algebra":
        record["moments"] = request.moments
    if request.wd_rule != "trajectory":
        record["wd_rule"] = request.wd_rule
    new = {space: runs_of(one.is_new) for space, one in growing.operator.growths.items() if one.is_new.any()}
    if new:
        record["new_coordinates"] = new
    return map_leaves(record, lambda leaf: type(leaf) is str, sys.intern)  # or pickles tell who made equal words


def _growth_log(growing: Growing, record: GrowthRecord) -> GrowthLog:
    step, steps = growing.step, growing.request.rewarm
    rewarm: Rewarm | None = {"start": step, "steps": steps} if steps and step is not None else None
    history = [*growing.old.checkpoint.history, record]
    return {"version": __version__, "history": history, "rewarm": rewarm, "global_step": step}


def _result(growing: Growing, grown: _Grown, target: Path | None) -> GrowthResult:
    old = growing.old.as_read
    is_read = target is not None and processes().rank == 0
    sha256 = growing.fingerprint.value() if is_read else None
    return GrowthResult(
        out=target,
        old=old.architecture.own_sizes,
        new=growing.new_architecture.own_sizes,
        num_parameters=(
            sum(num_elements(old.checkpoint.tensors[one.name]) for one in old.claim.parameters),
            grown.num_parameters,
        ),
        trapped=growing.operator.trapped and not grown.begins_anew,
        lr_rule=growing.request.rates,
        step=(old.checkpoint.position.global_step, growing.step),
        notes=tuple(map(Message, grown.notes)),
        record=grown.record if sha256 is None else {**grown.record, "source_sha256": sha256},
        config=growing.operator.config,
        grown=grown.checkpoint if target is None else None,
    )
