"""Tells what a checkpoint holds, without reading its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ckptgrow.addresses.address import local_path
from ckptgrow.errors import ClaimError, ConfigError, OptimizerError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.growth_log import GrowthRecord
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.formats.left_behind import state_in
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Claim, unclaimed_names
from ckptgrow.state.config_sources import architecture_of
from ckptgrow.state.fitting_dialects import are_transformers
from ckptgrow.state.opening import named_optimizers
from ckptgrow.state.optimizer_kinds import name_of
from ckptgrow.state.optimizer_state import OptimizerState, unmatched, without_record
from ckptgrow.state.pieces import pieces_in
from ckptgrow.state.translation import changed_by, in_transformers_terms
from ckptgrow.state.twins import claim_tensors
from ckptgrow.state.unknown_trainers import why_unknown
from ckptgrow.storage.archives.archive import check_sums
from ckptgrow.storage.dcp_io.dcp_pieces import Pieced
from ckptgrow.storage.files.archive_signs import is_archive
from ckptgrow.storage.fingerprint import Fingerprint
from ckptgrow.storage.tensors import LazyTensor, is_lazy, num_elements, whole
from ckptgrow.storage.tree import tensors_in


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The contents of a checkpoint; `problems`: sentences on why it could not be grown as it is."""

    kind: str
    trainer: str | None  # whose names and forms they are, where they are not transformers'
    family: str | None
    config: Mapping[str, Any] | None
    sizes: Mapping[str, int]
    num_parameters: int
    num_tensors: int
    dtypes: Mapping[str, int]  # tensors by dtype
    optimizer: Mapping[str, Any] | None
    schedule: Mapping[str, Any] | None
    global_step: int | None
    epoch: float | None
    precision: str | None
    unclaimed: list[str]
    history: list[GrowthRecord]
    problems: list[str]
    sha256: str | None = None  # of all tensors, where it was asked for

    def to_json(self) -> Mapping[str, object]:
        """The contents as plain values."""
        return asdict(self)


def inspect(
    path: str | Path, *, config: Path | None = None, dialect: str | None = None, check: bool = False
) -> Inspection:
    """Looks at a checkpoint of any kind; `config` is its transformers config.json where it has none, `dialect` the
    trainer's where its names do not tell it.

    With `check` every byte is read: the checksums of all that torch saved (safetensors have none), and the sha256 of
    the weights, which a growth records of its source; a trainer's own names must come back from transformers'.
    Raises CheckpointError where it cannot be read at all; everything else is told in `problems`.
    """
    in_file, problems = read_checkpoint(local_path(path)), list[str]()
    checkpoint, translation = in_transformers_terms(in_file, config, dialect)
    architecture, claimed, unclaimed = _architecture(checkpoint, config, problems), None, list[str]()
    if architecture is not None:
        joined = pieces_in(architecture.family, checkpoint.tensors).joined(checkpoint.tensors)
        checkpoint = replace(checkpoint, tensors=joined)
        architecture, claimed, unclaimed = _claimed(checkpoint, architecture, problems)
    fields = checkpoint.config if architecture is None else architecture.config
    if claimed is None and translation is None and not are_transformers(in_file.tensors):
        problems.append(f"{path}: {why_unknown(in_file, config)}")
    problems += changed_by(translation, in_file, checkpoint) if check and translation else []
    return Inspection(
        kind=checkpoint.kind,
        trainer=translation.dialect.trainer if translation else None,
        family=architecture.family.model_type if architecture else None,
        config=dict(fields) if fields else None,
        sizes=architecture.own_sizes if architecture else {},
        num_parameters=_num_parameters(checkpoint, claimed),
        num_tensors=len(in_file.tensors),
        dtypes=dict(Counter(_dtype_name(tensor) for tensor in in_file.tensors.values())),
        optimizer=_optimizer(checkpoint, claimed, translation.absent if translation else (), problems),
        schedule=_schedule(checkpoint),
        global_step=checkpoint.position.global_step,
        epoch=checkpoint.position.epoch,
        precision=checkpoint.precision,
        unclaimed=unclaimed,
        history=list(checkpoint.history),
        problems=problems,
        sha256=_checked(checkpoint) if check else None,
    )


def _num_parameters(checkpoint: Checkpoint, claimed: Claim | None) -> int:
    """Elements of the parameters, those that several names share counted once."""
    names = [one.name for one in claimed.parameters] if claimed else list(checkpoint.tensors)
    distinct = {id(checkpoint.tensors[name]): checkpoint.tensors[name] for name in names}
    return sum(num_elements(tensor) for tensor in distinct.values())


def _checked(checkpoint: Checkpoint) -> str:
    """Reads every tensor, compares the checksums of every archive, and returns the sha256 of the weights."""
    path = checkpoint.path
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        if file.is_file() and file.suffix != ".distcp" and is_archive(file):
            check_sums(file, str(file))
    for _, tensor in tensors_in(checkpoint.tree):
        if isinstance(tensor, Pieced):
            for piece in tensor.pieces:
                piece.check_sum()
    return Fingerprint(checkpoint.tensors).value()


def _architecture(checkpoint: Checkpoint, config: Path | None, problems: list[str]) -> Architecture | None:
    try:
        return architecture_of(checkpoint, config)
    except ConfigError as error:
        problems.append(error.message)
        return None


def _claimed(
    checkpoint: Checkpoint, architecture: Architecture, problems: list[str]
) -> tuple[Architecture, Claim | None, list[str]]:
    """The architecture, with whether the head really is tied; the claim; and the tensors that no row claims."""
    try:
        architecture, claimed = claim_tensors(architecture, checkpoint.tensors)
        return architecture, claimed.in_module_order() if checkpoint.order == "module" else claimed, []
    except (ClaimError, ConfigError) as error:
        problems.append(error.message)
        shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        return architecture, None, unclaimed_names(architecture, shapes)


def _dtype_name(tensor: LazyTensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _optimizer(
    checkpoint: Checkpoint, claimed: Claim | None, absent: Collection[str], problems: list[str]
) -> dict[str, Any] | None:
    """The optimizer, whose trainer has no parameters `absent`; one that is there and could not be matched to the
    model's parameters says why (`unmatched`).
    """
    lost = state_in(
        checkpoint.path,
        [*checkpoint.carried.left_behind, *checkpoint.carried.unreadable],
        list(checkpoint.tensors.values()),
    )
    if lost:
        problems.append(f"{checkpoint.path}: {listing(lost)} holds training state that no rule reads")
    if not checkpoint.optimizers:
        return None if not lost else {**_told((), None), "unmatched": f"{listing(lost)} is read by no rule"}
    unnamed = tuple(map(unmatched, checkpoint.optimizers))
    if claimed is None:
        return {**_told(unnamed, None), "unmatched": "the model's parameters are not known"}
    try:
        states = named_optimizers(checkpoint, claimed)
    except OptimizerError as error:
        problems.append(error.message)
        return {**_told(unnamed, None), "unmatched": error.message}
    trained = [one.name for one in claimed.parameters if one.is_trained and one.name not in absent]
    return _told(states, without_record(states, trained))


def _told(states: Sequence[OptimizerState], unrecorded: list[str] | None) -> dict[str, Any]:
    return {
        "name": " + ".join(_optimizer_name(state) for state in states) or "unknown",
        "num_parameters_with_state": sum(len(state.state) for state in states),
        "state_keys": sorted({key for state in states for key in state.state_keys}),
        "groups": [
            {
                **{key: value for key, value in map(_counted, group.options.items()) if _is_plain(value)},
                "num_parameters": len(group.names),
            }
            for state in states
            for group in state.groups
        ],
        "without_record": unrecorded,
        "unmatched": None,
    }


def _optimizer_name(state: OptimizerState) -> str:
    has_amsgrad = bool(state.groups) and state.groups[0].options.get("amsgrad")
    name = name_of(state) or "unknown"
    return f"{name} (amsgrad)" if has_amsgrad else name


def _counted(option: tuple[str, Any]) -> tuple[str, Any]:
    """An option of a group, as a number where it is a tensor of one (capturable optimizers)."""
    key, value = option
    return key, float(whole(value)) if is_lazy(value) and not value.shape else value


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str | bool | list | tuple)


def _schedule(checkpoint: Checkpoint) -> dict[str, Any] | None:
    if not checkpoint.schedulers:
        return None
    first = checkpoint.schedulers[0]
    return {key: first[key] for key in ("last_epoch", "base_lrs", "_last_lr") if key in first}
