"""Between a trainer's way of keeping a model and transformers': what is read is put into transformers' names and forms
before anything is claimed, and what is written is put back.

Growth, verification and conversion see transformers' model alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ckptgrow.dialects.dialect import Dialect
from ckptgrow.errors import CheckpointError, RequestError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Shape
from ckptgrow.state.config_sources import architecture_said
from ckptgrow.state.fitting_dialects import fitting_dialects
from ckptgrow.state.terms import Terms, shapes_of_theirs
from ckptgrow.state.trainer_config import (
    Sources,
    as_trainers,
    as_transformers,
    with_fields_again,
    without_fields,
)
from ckptgrow.state.translated_optimizers import to_theirs, to_transformers
from ckptgrow.state.translated_tensors import in_trainers_forms, in_transformers_forms
from ckptgrow.storage.files.json_files import config_in_file
from ckptgrow.storage.tensors import whole

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Translation:
    """How a checkpoint was put into transformers' terms, and how one that came from it is put back.

    `sources` is the trainer's config where it has one, `keyed_by` how each optimizer had its parameters, `num_groups`
    in how many groups, 0 where these had names.
    """

    terms: Terms
    sources: Sources | None
    keyed_by: tuple[str, ...]
    num_groups: tuple[int, ...]

    @property
    def dialect(self) -> Dialect:
        """The dialect."""
        return self.terms.cover.dialect

    @property
    def absent(self) -> Mapping[str, Shape]:
        """Transformers' parameters that the trainer has not, which are zero, with their shapes."""
        return self.terms.absent

    def undone(self, checkpoint: Checkpoint) -> Checkpoint:
        """A checkpoint in transformers' terms in the trainer's.

        Raises RequestError for what the trainer has no place for.
        """
        architecture = architecture_said(checkpoint.config or {}, checkpoint.path)
        num_experts = architecture.sizes.get("experts", 0) if self.terms.cover.num_experts else 0
        cover = replace(self.terms.cover, num_layers=architecture.num_layers, num_experts=num_experts)
        terms = Terms(cover, architecture, self.terms.has_optimizers_rows)
        new = replace(
            checkpoint,
            tensors=in_trainers_forms(terms, checkpoint),
            optimizers=to_theirs(
                checkpoint.optimizers, terms.optimizer, terms.absent, self._told_by(checkpoint), terms.own_order
            ),
        )
        config = self.dialect.config
        if config is None or self.sources is None:
            return new
        said = as_transformers(config, as_trainers(config, self.sources.fields, checkpoint.config or {}))
        tie = architecture.family.tie
        tied = {tie.config: architecture.is_tied} if tie is not None else {}
        _check_sayable(architecture, architecture_said({**tied, **said}, checkpoint.path))
        return replace(with_fields_again(new, config, self.sources), config=None)

    def _told_by(self, checkpoint: Checkpoint) -> list[str]:
        """What tells parameters apart in each optimizer: in other groups than the trainer's no order does."""
        counts = zip(self.keyed_by, self.num_groups, checkpoint.optimizers, strict=False)
        return ["both" if key == "number" and num != len(raw.groups) else key for key, num, raw in counts]


def _check_sayable(found: Architecture, said: Architecture) -> None:
    """Raises RequestError where a trainer's config cannot say a model's sizes."""
    lost = {f"{name} {size}" for name, size in found.own_sizes.items() if said.own_sizes.get(name) != size}
    if lost:
        raise RequestError(
            f"{found.where}: its trainer's config cannot say {listing(lost)}, expected sizes that it derives; choose "
            "others, or convert it first (ckptgrow convert ⟦to huggingface⟧)"
        )


def in_transformers_terms(
    checkpoint: Checkpoint, config: Path | None = None, dialect: str | None = None
) -> tuple[Checkpoint, Translation | None]:
    """A checkpoint in transformers' terms, and how it was put into them: None where no dialect fits, because they are
    its own, or those of an unknown trainer. `config` is a file with transformers' config, from the user.

    Raises CheckpointError where several dialects fit, or the one that is asked for does not.
    """
    given = None if config is None else config_in_file(config)
    fitting, reasons = fitting_dialects(checkpoint, given, dialect)
    if len(fitting) > 1:
        names = listing(one.dialect.name for one in fitting)
        raise CheckpointError(f"{checkpoint.path}: {names} each fit it, expected one; say which with ⟦dialect NAME⟧")
    if dialect is not None and not fitting:
        raise CheckpointError(
            f"{checkpoint.path}: does not fit the dialect {'; '.join(one.reason for one in reasons.values())}"
        )
    if not fitting:
        return checkpoint, None
    fit, keyed_by = fitting[0], tuple(raw.keyed_by for raw in checkpoint.optimizers)
    num_groups = tuple(
        0 if any(group.names for group in raw.groups) else len(raw.groups) for raw in checkpoint.optimizers
    )
    translation = Translation(fit.terms, fit.sources, keyed_by, num_groups)
    return _translated(checkpoint, translation, given), translation


def changed_by(translation: Translation, read: Checkpoint, there: Checkpoint) -> list[str]:
    """The tensors of a file that are not the same after the way to transformers' terms (`there`) and back."""
    back = translation.undone(there).tensors
    changed = [name for name, tensor in read.tensors.items() if not torch.equal(whole(tensor), whole(back[name]))]
    name = translation.dialect.name
    return [f"{read.path}: {listing(changed)} would not be the same after {name} and back"] if changed else []


def _translated(checkpoint: Checkpoint, translation: Translation, given: Config | None) -> Checkpoint:
    terms = translation.terms
    config = translation.dialect.config
    if config is not None and translation.sources is not None:
        checkpoint = without_fields(checkpoint, config, translation.sources)
    distinct = {id(tensor): name for name, tensor in reversed(list(checkpoint.tensors.items()))}
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items() if distinct[id(tensor)] == name}
    own = shapes_of_theirs(terms.optimizer)
    shapes = {name: shape for name, shape in shapes.items() if name in own}
    alone = {name: shape for name, shape in own.items() if name not in checkpoint.tensors}
    shapes |= {name: alone[name] for name in sorted(alone, key=lambda name: terms.own_order.get(name, 0))}
    return replace(
        checkpoint,
        tensors=in_transformers_forms(terms, checkpoint.tensors),
        config=given or terms.architecture.config,
        optimizers=to_transformers(checkpoint.optimizers, terms.optimizer, shapes),
    )
