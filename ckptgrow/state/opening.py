"""Opens checkpoints: finds the family and config, claims every tensor, and names every optimizer's parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptgrow.errors import ClaimError, ConfigError, OptimizerError, RequestError, at, listing
from ckptgrow.families.family import Family
from ckptgrow.formats.adapters import check_merged
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.formats.lightning import SCALER_KEYS
from ckptgrow.formats.sidecar_files import SCALER, TRAINER_STATE
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Claim
from ckptgrow.state.config_sources import architecture_of
from ckptgrow.state.fitting_dialects import are_transformers
from ckptgrow.state.mixture_terms import MixtureTerms
from ckptgrow.state.optimizer_state import OptimizerState, named_states
from ckptgrow.state.pieces import Pieces, pieces_in
from ckptgrow.state.translation import Translation, in_transformers_terms
from ckptgrow.state.twins import claim_tensors
from ckptgrow.state.unknown_trainers import check_has_no_megatron_experts, why_unknown
from ckptgrow.storage.tensors import LazyTensor

PARTS = {"global_step", "epoch", "loops", TRAINER_STATE}  # a state without them is another one
SCALERS = (*SCALER_KEYS, SCALER)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """See the module's head. `checkpoint.tensors` are as the module has them, `stored` as the file has them, in
    transformers' terms; `translation` is how a trainer's own names and forms became these. A mixture that restates a
    dense model has that one's state as `dense`, and `terms` tell how its tensors are made of the dense ones; `stored`
    are the dense ones then.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    claim: Claim
    optimizers: tuple[OptimizerState, ...]
    stored: Mapping[str, LazyTensor]
    pieces: Pieces
    translation: Translation | None = None
    terms: MixtureTerms | None = None
    dense: TrainingState | None = None

    @property
    def as_read(self) -> TrainingState:
        """The state as the file has it, which this one may restate."""
        return self.dense or self

    def in_module(self, stored: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """The file's tensors, or others of their names and shapes, as the module has them."""
        if self.dense is None or self.terms is None:
            return self.pieces.joined(stored)
        return self.terms.tensors(self.dense.in_module(stored))

    @property
    def family(self) -> Family:
        """The table of the architecture's family."""
        return self.architecture.family

    @property
    def config(self) -> Mapping[str, Any]:
        """The architecture's config, completed."""
        return self.architecture.config

    @property
    def where(self) -> str:
        """The checkpoint's place, for messages."""
        return self.architecture.where

    @property
    def trained(self) -> list[str]:
        """The parameters that the trainer has."""
        absent = self.translation.absent if self.translation else {}
        return [one.name for one in self.claim.parameters if one.is_trained and one.name not in absent]

    def with_config(self, config: Mapping[str, Any]) -> TrainingState:
        """The same with another config."""
        return replace(self, architecture=self.architecture.with_config(config))


def open_state(
    path: Path,
    *,
    config: Path | None = None,
    drop: Sequence[str] = (),
    param_order: Path | None = None,
    reset: Collection[str] = (),
    dialect: str | None = None,
) -> TrainingState:
    """Reads a checkpoint of any format and understands it; tensors stay on disk.

    `config` is a transformers config.json where the checkpoint has none; `drop` names tensors or keys to leave out;
    `param_order` is a file with the optimizer's parameter names, one a line; `reset` names parts (`optimizer`,
    `schedule`) to leave out, which then need not be understood; `dialect` is the trainer's by name, or a file that says
    the user's own, where the names alone do not tell.
    Raises a CkptgrowError that names what does not fit.
    """
    return understood(
        read_checkpoint(path), config=config, drop=drop, param_order=param_order, reset=reset, dialect=dialect
    )


def understood(
    checkpoint: Checkpoint,
    *,
    config: Path | None = None,
    drop: Sequence[str] = (),
    param_order: Path | None = None,
    reset: Collection[str] = (),
    dialect: str | None = None,
) -> TrainingState:
    """Understands a checkpoint that was read; the arguments are those of `open_state`."""
    if "schedule" in reset:
        checkpoint = replace(checkpoint, schedulers=())
    if "optimizer" in reset:
        checkpoint = replace(checkpoint, optimizers=())
    checkpoint = _without(checkpoint, drop)
    check_merged(checkpoint.path, checkpoint.tensors)
    checkpoint, translation = in_transformers_terms(checkpoint, config, dialect)
    if translation is None:
        check_has_no_megatron_experts(checkpoint)
    stored = checkpoint.tensors
    try:
        architecture = architecture_of(checkpoint, config)
        pieces = pieces_in(architecture.family, stored)
        checkpoint = replace(checkpoint, tensors=pieces.joined(stored))
        architecture, claimed = claim_tensors(architecture, checkpoint.tensors)
    except (ClaimError, ConfigError) as error:
        if translation is None and not are_transformers(stored):
            error.add(why_unknown(checkpoint, config))
        raise
    ordered = claimed.in_module_order() if checkpoint.order == "module" else claimed
    states = named_optimizers(checkpoint, ordered, _names_in(param_order))
    return TrainingState(
        checkpoint=checkpoint,
        architecture=architecture,
        claim=ordered,
        optimizers=states,
        stored=stored,
        pieces=pieces,
        translation=translation,
    )


def architecture_in(source: Path | Checkpoint, *, dialect: str | None = None) -> Architecture:
    """The architecture that a checkpoint says, in whatever names it has its tensors, of which none is read.

    `dialect` is that of `open_state`. Raises a CkptgrowError where nothing tells it.
    """
    read = read_checkpoint(source) if isinstance(source, Path) else source
    checkpoint, _ = in_transformers_terms(read, None, dialect)
    try:
        return architecture_of(checkpoint)
    except ConfigError as error:
        if not are_transformers(read.tensors):
            error.add(why_unknown(read))
        raise


def named_optimizers(
    checkpoint: Checkpoint, claim: Claim, order: Sequence[str] | None = None
) -> tuple[OptimizerState, ...]:
    """A checkpoint's optimizers, their parameters named as it names them, by the order of a claim or the user's own.

    Raises OptimizerError where they do not fit the model.
    """
    trained = [one for one in claim.parameters if one.is_trained]
    num_known = sum(len(raw.keys) for raw in checkpoint.optimizers)
    parameters = trained if num_known <= len(trained) else claim.parameters  # whose optimizer has all, has all in order
    shapes = {one.name: checkpoint.tensors[one.name].shape for one in parameters}
    in_module = {one.module_name(one.layer): one.name for one in parameters}
    with at(checkpoint.path):
        return named_states(checkpoint.optimizers, shapes, order, in_module)


def _without(checkpoint: Checkpoint, drop: Sequence[str]) -> Checkpoint:
    keys = {key for key, value in checkpoint.rest.items() if value is not None}
    known = {*checkpoint.tensors, *keys, *checkpoint.carried.files, *checkpoint.carried.left_behind} - PARTS
    unknown = [name for name in drop if name not in known]
    if unknown:
        raise RequestError(
            f"⟦drop {listing(unknown)}⟧: no tensor, key or file of {checkpoint.path} that can be left out; the "
            "optimizer and the schedule go by ⟦reset⟧"
        )
    rest = {key: value for key, value in checkpoint.rest.items() if key not in drop}
    return replace(
        checkpoint,
        tensors={name: tensor for name, tensor in checkpoint.tensors.items() if name not in drop},
        rest=rest,
        carried=checkpoint.carried.without(drop),
        scaler=None if {*drop} & {*SCALERS} else checkpoint.scaler,
    )


def _names_in(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    if not path.is_file():
        raise OptimizerError(f"{path}: is not a file, expected one parameter name a line")
    try:
        return path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise OptimizerError(f"{path}: is not text, expected one parameter name a line") from error
