"""Between a trainer's way of keeping a model and transformers': what is read is put into transformers' names and forms
before anything is claimed, and what is written is put back.

Growth, verification and conversion see transformers' model alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ckptgrow.dialects.dialect import EXPERT, LAYER, ConfigMap, Dialect, Row
from ckptgrow.dialects.forms import Form
from ckptgrow.dialects.known_dialects import DIALECTS, dialect_called
from ckptgrow.errors import CheckpointError, ConfigError, RequestError, listing
from ckptgrow.families.family import Tie
from ckptgrow.families.registry import FAMILIES, family_of
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Shape, expected_shapes, name_regex
from ckptgrow.state.config_sources import completed_config
from ckptgrow.state.cover import Cover, Instance, cover_of, names_in_module_order, numbered
from ckptgrow.state.trainer_config import (
    Sources,
    as_trainers,
    as_transformers,
    misfit,
    sources_in,
    with_fields_again,
    without_fields,
)
from ckptgrow.state.translated_optimizers import Entries, OptimizerTerms, to_theirs, to_transformers
from ckptgrow.state.wrappers import bare_names
from ckptgrow.storage.files.json_files import config_in_file
from ckptgrow.storage.tensors import LazyTensor, Zeros, whole

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Term:
    """What a row says in a layer: the trainer's tensors, none where it lacks them (`is_absent`), and transformers'."""

    row: Row
    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    form: Form
    is_absent: bool


@dataclass(frozen=True)
class Terms:
    """A cover in a model of some sizes: every row in every layer; `has_optimizers_rows` tells whether the optimizer has
    the rows of its own.
    """

    cover: Cover
    architecture: Architecture
    has_optimizers_rows: bool

    @cached_property
    def weights(self) -> tuple[Term, ...]:
        """The tensors of the file, instance by instance."""
        rows = self.cover.dialect.rows
        return tuple(term for instance in self.cover.instances for row in rows for term in self._of(row, instance))

    @cached_property
    def optimizer(self) -> OptimizerTerms:
        """The entries of optimizers, of the model's own parameters; a head that is the embedding has no other entry,
        and both are called what comes first.
        """
        dialect = self.cover.dialect
        rows = dialect.rows_of_optimizer if self.has_optimizers_rows else dialect.parameter_rows
        terms = [term for row in rows for term in self._of(row, self.cover.instances[0]) if not term.is_absent]
        tie = self.architecture.family.tie
        if tie is not None and self.architecture.is_tied:
            one = {tie.head, tie.embedding}
            shared = [term for term in terms if {*term.ours} & one]
            embedding = next(term for term in shared if tie.embedding in term.ours)
            first = replace(embedding, theirs=shared[0].theirs)
            terms = [first if term is shared[0] else term for term in terms if term not in shared[1:]]
        return tuple(Entries(theirs=term.theirs, ours=term.ours, form=term.form) for term in terms)

    @cached_property
    def own_order(self) -> dict[str, int]:
        """The place in the trainer's module of every entry of an optimizer that has only names of its own."""
        dialect = self.cover.dialect
        if not self.has_optimizers_rows or dialect.rows_of_both:
            return self.module_order
        names = names_in_module_order(dialect.optimizer_rows, self.cover.num_layers)
        return {name: place for place, name in enumerate(names)}

    @cached_property
    def module_order(self) -> dict[str, int]:
        """The place in the trainer's module of every tensor, where transformers' order does not tell it: where the
        trainer has apart what is one tensor of transformers'.
        """
        cover = self.cover
        if not any(row.is_apart for row in cover.dialect.rows):
            return {}
        rows = [
            [tuple(instance.spelling[name] for name in row.names) for row in cover.dialect.rows if instance.has(row)]
            for instance in cover.instances
        ]
        names = [
            name
            for spelt in rows
            for name in names_in_module_order([Row(one) for one in spelt], cover.num_layers, cover.num_experts)
        ]
        return {name: place for place, name in enumerate(names)}

    @cached_property
    def absent(self) -> dict[str, Shape]:
        """Transformers' parameters that the trainer has not, with their shapes."""
        return {term.ours[0]: term.form.shapes[0] for term in self.weights if term.is_absent}

    def _of(self, row: Row, instance: Instance) -> Iterator[Term]:
        """The row's tensors."""
        shapes, num_layers = self._shapes, self.architecture.num_layers
        sizes = {"experts": 0, **self.architecture.sizes, "layers": num_layers}
        if any(part.name not in shapes for part in row.parts):
            return
        layers = range(num_layers)
        is_one = row.is_stacked or LAYER not in row.theirs
        for layer in (None,) if is_one else layers:
            inner = layers if row.is_stacked else (layer,)
            ours = [part.name.replace(LAYER, str(at)) for at in inner for part in row.parts]
            form = Form(row, tuple(shapes[part.name] for _ in inner for part in row.parts), sizes)
            is_absent = row.or_zero and not instance.has(row)
            theirs = () if is_absent else self._names(row, instance, layer)
            named = tuple(instance.prefix + name for name in ours)
            yield Term(row=row, theirs=theirs, ours=named, form=form, is_absent=is_absent)

    def _names(self, row: Row, instance: Instance, layer: int | None) -> tuple[str, ...]:
        experts = range(self.architecture.sizes.get("experts", 0)) if EXPERT in row.theirs else (None,)
        own = instance.has(row)  # else the optimizer's alone
        return tuple(
            instance.name(name, layer, expert) if own else numbered(name, layer, expert)
            for expert in experts
            for name in row.names
        )

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        tie = self.architecture.family.tie
        shapes = expected_shapes(self.architecture)
        return shapes if tie is None else {tie.head: shapes[tie.embedding], **shapes}


@dataclass(frozen=True)
class Misfit:
    """Why a dialect does not fit a checkpoint, and whether the names at least are the dialect's."""

    reason: str
    has_its_names: bool


@dataclass(frozen=True)
class Translation:
    """How a checkpoint was put into transformers' terms, and how one that came from it is put back.

    `sources` is the trainer's config where it has one, `keyed_by` how each optimizer had its parameters.
    """

    terms: Terms
    sources: Sources | None
    keyed_by: tuple[str, ...]

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
        architecture = _architecture(checkpoint.config or {}, checkpoint.path)
        num_experts = architecture.sizes.get("experts", 0) if self.terms.cover.num_experts else 0
        cover = replace(self.terms.cover, num_layers=architecture.num_layers, num_experts=num_experts)
        terms = Terms(cover, architecture, self.terms.has_optimizers_rows)
        new = replace(
            checkpoint,
            tensors=in_trainers_forms(terms, checkpoint),
            optimizers=to_theirs(checkpoint.optimizers, terms.optimizer, terms.absent, self.keyed_by, terms.own_order),
        )
        config = self.dialect.config
        if config is None or self.sources is None:
            return new
        said = as_transformers(config, as_trainers(config, self.sources.fields, checkpoint.config or {}))
        tie = architecture.family.tie
        tied = {tie.config: architecture.is_tied} if tie is not None else {}
        _check_sayable(architecture, _architecture({**tied, **said}, checkpoint.path))
        return replace(with_fields_again(new, config, self.sources), config=None)


def _architecture(config: Config, path: Path) -> Architecture:
    family = family_of(config)
    return Architecture(family, completed_config(family, config), str(path))


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
    return (_translated(checkpoint, fitting[0], given), fitting[0]) if fitting else (checkpoint, None)


def are_transformers(names: Collection[str]) -> bool:
    """Whether most names of a file are some family's: others may be heads of another task."""
    patterns = {(one.name, family.base_prefix) for family in FAMILIES.values() for one in family.parameters}
    regexes = [name_regex(*pattern) for pattern in sorted(patterns)]
    known = sum(any(regex.fullmatch(name) for regex in regexes) for name in names)
    return 2 * known > len(names)


def changed_by(translation: Translation, read: Checkpoint, there: Checkpoint) -> list[str]:
    """The tensors of a file that are not the same after the way to transformers' terms (`there`) and back."""
    back = translation.undone(there).tensors
    changed = [name for name, tensor in read.tensors.items() if not torch.equal(whole(tensor), whole(back[name]))]
    name = translation.dialect.name
    return [f"{read.path}: {listing(changed)} would not be the same after {name} and back"] if changed else []


def fitting_dialects(
    checkpoint: Checkpoint, given: Config | None, name: str | None
) -> tuple[list[Translation], dict[str, Misfit]]:
    """The dialects that fit, and by their names why the others do not."""
    fitting: list[Translation] = []
    reasons: dict[str, Misfit] = {}
    for one in DIALECTS.values() if name is None else (dialect_called(name),):
        found = _fit(checkpoint, one, given)
        if isinstance(found, Misfit):
            reasons[one.name] = found
        else:
            fitting.append(found)
    return [one for one in fitting if _is_called_so(one)] or fitting, reasons


def _is_called_so(translation: Translation) -> bool:
    """Whether the dialect asks for a word in the model's name, by which its trainer tells families apart that have the
    same tensors.
    """
    config = translation.dialect.config
    return config is not None and bool(config.contains)


def _fit(checkpoint: Checkpoint, dialect: Dialect, given: Config | None) -> Translation | Misfit:
    """How a dialect fits a checkpoint, or why not."""
    if dialect.kind not in (None, checkpoint.kind):
        return Misfit(f"it is of kind {checkpoint.kind}, expected {dialect.kind}", has_its_names=False)
    cover = cover_of(dialect, checkpoint.tensors)
    if isinstance(cover, str):
        return Misfit(cover, has_its_names=False)
    found = _fit_of(cover, checkpoint, dialect, given)
    return Misfit(found, has_its_names=True) if isinstance(found, str) else found


def _fit_of(cover: Cover, checkpoint: Checkpoint, dialect: Dialect, given: Config | None) -> Translation | str:
    """The same of a dialect that covers the names."""
    strange = _strange_names(dialect)
    if strange:
        return f"{listing(dialect.model_types)} has no {listing(strange)}"
    sources = None if dialect.config is None else sources_in(checkpoint, dialect.config)
    config = given or _own_config(dialect.config, sources) or checkpoint.config
    is_told_by_config = dialect.config is not None and all(row.is_transformers for row in dialect.rows)
    if config is None or (is_told_by_config and sources is None):
        return f"there is no {'.'.join(dialect.config.at) if dialect.config else 'config'}, and none was given"
    if dialect.config is not None and sources is not None:
        reason = misfit(dialect.config, sources.fields)
        if reason is not None:
            return reason
    if config.get("model_type") not in dialect.model_types:
        return f"its config is of {config.get('model_type')}, expected {listing(dialect.model_types)}"
    try:
        tie = family_of(config).tie
        if given is None and tie is not None and tie.config not in config:
            config = {**config, tie.config: _are_tied(cover, checkpoint, tie)}
        architecture = _architecture(config, checkpoint.path)
        terms = Terms(cover, architecture, _has_optimizers_rows(checkpoint, dialect))
        reason = _shape_misfit(terms, checkpoint)
    except ConfigError as error:
        return error.message
    return reason or Translation(terms, sources, tuple(raw.keyed_by for raw in checkpoint.optimizers))


def _strange_names(dialect: Dialect) -> set[str]:
    """Names that a dialect takes for transformers', and no family has."""
    families = [FAMILIES[name] for name in dialect.model_types if name in FAMILIES]
    known = {one.name for family in families for one in family.parameters} | {
        one for family in families for one in family.buffers
    }
    return {part.name for row in dialect.rows for part in row.parts} - known


def _has_optimizers_rows(checkpoint: Checkpoint, dialect: Dialect) -> bool:
    """Whether the optimizer names the tensors that it alone has, or has no other."""
    if dialect.optimizer_rows and not dialect.rows_of_both:
        return True
    told = bare_names(name for raw in checkpoint.optimizers for group in raw.groups for name in group.names or ())
    ends = {row.theirs.rpartition(LAYER)[2] for row in dialect.optimizer_rows}
    return any(name.endswith(end) for name in told.values() for end in ends)


def _are_tied(cover: Cover, checkpoint: Checkpoint, tie: Tie) -> bool:
    """Whether the file has the head and the embedding as one tensor."""
    model = cover.instances[0]
    found = {
        row.parts[0].name: checkpoint.tensors.get(model.name(row.theirs, None))
        for row in cover.dialect.rows
        if model.has(row)
    }
    return found.get(tie.head) is None or found[tie.head] is found.get(tie.embedding)


def _own_config(config: ConfigMap | None, sources: Sources | None) -> dict[str, Any] | None:
    return None if config is None or sources is None else as_transformers(config, sources.fields)


def _shape_misfit(terms: Terms, checkpoint: Checkpoint) -> str | None:
    has_stacks_alone = not any(LAYER in row.theirs for row in terms.cover.dialect.rows)
    if not has_stacks_alone and terms.cover.num_layers != terms.architecture.num_layers:  # stacks tell by their shapes
        return f"it has {terms.cover.num_layers} layers, expected {terms.architecture.num_layers} by its config"
    num_experts = terms.architecture.sizes.get("experts", 0)
    if terms.cover.num_experts not in (0, num_experts):
        return f"it has {terms.cover.num_experts} experts, expected {num_experts} by its config"
    covered = _shapes(term for term in terms.weights if not term.is_absent)
    for name, tensor in checkpoint.tensors.items():
        expected = covered.get(name)
        if expected is None:
            return f"its config has no {name}"
        if tensor.shape != expected:
            return f"{name} has shape {list(tensor.shape)}, expected {list(expected)} by its config"
    return None


def _shapes(terms: Iterable[Term | Entries]) -> dict[str, Shape]:
    """Those of the trainer's tensors."""
    return {name: shape for one in terms for name, shape in zip(one.theirs, one.form.shapes_of_theirs, strict=True)}


def _translated(checkpoint: Checkpoint, translation: Translation, given: Config | None) -> Checkpoint:
    terms = translation.terms
    config = translation.dialect.config
    if config is not None and translation.sources is not None:
        checkpoint = without_fields(checkpoint, config, translation.sources)
    distinct = {id(tensor): name for name, tensor in reversed(list(checkpoint.tensors.items()))}
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items() if distinct[id(tensor)] == name}
    own = _shapes(terms.optimizer)
    shapes = {name: shape for name, shape in shapes.items() if name in own}
    alone = {name: shape for name, shape in own.items() if name not in checkpoint.tensors}
    shapes |= {name: alone[name] for name in sorted(alone, key=lambda name: terms.own_order.get(name, 0))}
    return replace(
        checkpoint,
        tensors=_ours(terms, checkpoint.tensors),
        config=given or terms.architecture.config,
        optimizers=to_transformers(checkpoint.optimizers, terms.optimizer, shapes),
    )


def _ours(terms: Terms, theirs: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Transformers' tensors in the order of the trainer's; what it lacks is zero and stands after its neighbour."""
    dtype = next(iter(theirs.values())).dtype
    place = {name: index for index, name in enumerate(theirs)}
    made: dict[str, LazyTensor] = {}
    order: dict[str, int] = {}
    last = 0
    for term in terms.weights:
        if term.is_absent:
            tensors: Sequence[LazyTensor] = [Zeros(shape, dtype) for shape in term.form.shapes]
        else:
            last = place[term.theirs[0]]
            parts = [theirs[name] for name in term.theirs]
            tensors = parts if term.row.is_renaming else term.form.ours(parts)
        made |= dict(zip(term.ours, tensors, strict=True))
        order |= dict.fromkeys(term.ours, last)
    return {name: made[name] for name in sorted(made, key=order.__getitem__)}


def in_trainers_forms(terms: Terms, checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """A trainer's tensors by name, of a checkpoint in transformers' terms.

    Raises RequestError for what the trainer has no tensor for, and where one that it lacks is not zero.
    """
    ours = checkpoint.tensors
    term_of = {name: term for term in terms.weights for name in term.ours}
    strangers = [name for name in ours if name not in term_of]
    if strangers:
        raise RequestError(f"{checkpoint.path}: {terms.cover.dialect.name} has no place for {listing(strangers)}")
    made: dict[str, LazyTensor] = {}
    for name, tensor in ours.items():
        term = term_of[name]
        if term.is_absent:
            if bool(whole(tensor).any()):
                raise RequestError(f"{checkpoint.path}: {name} is not zero, expected zeros: its trainer has none")
        elif term.theirs[0] not in made:
            parts = [ours[part] for part in term.ours]
            tensors = parts if term.row.is_renaming else term.form.theirs(parts)
            made |= dict(zip(term.theirs, tensors, strict=True))
    order = terms.module_order
    return {name: made[name] for name in sorted(made, key=order.__getitem__)} if order else made
