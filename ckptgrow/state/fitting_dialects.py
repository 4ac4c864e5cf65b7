"""Which dialects fit a checkpoint: by its names, its config and the shapes of its tensors; and why others do not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ckptgrow.dialects.dialect import LAYER, ConfigMap, Dialect
from ckptgrow.dialects.known_dialects import DIALECTS, dialect_called
from ckptgrow.errors import ConfigError, listing
from ckptgrow.families.family import Tie
from ckptgrow.families.registry import FAMILIES, family_of
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.claim import name_regex
from ckptgrow.state.config_sources import architecture_said
from ckptgrow.state.cover import Cover, cover_of, spelt_by
from ckptgrow.state.terms import Terms, shapes_of_theirs
from ckptgrow.state.trainer_config import (
    Sources,
    as_transformers,
    misfit,
    sources_in,
)
from ckptgrow.state.wrappers import bare_names

Config = Mapping[str, Any]


@dataclass(frozen=True)
class DialectFit:
    """A dialect's terms in a checkpoint, and the trainer's config where it has one."""

    terms: Terms
    sources: Sources | None

    @property
    def dialect(self) -> Dialect:
        """The dialect."""
        return self.terms.cover.dialect


@dataclass(frozen=True)
class Misfit:
    """Why a dialect does not fit a checkpoint, and whether the names at least are the dialect's."""

    reason: str
    has_its_names: bool


def fitting_dialects(
    checkpoint: Checkpoint, given: Config | None, name: str | None
) -> tuple[list[DialectFit], dict[str, Misfit]]:
    """The dialects that fit, and by their names why the others do not."""
    fitting: list[DialectFit] = []
    reasons: dict[str, Misfit] = {}
    for one in DIALECTS.values() if name is None else (dialect_called(name),):
        found = _fit(checkpoint, one, given)
        if isinstance(found, Misfit):
            reasons[one.name] = found
        else:
            fitting.append(found)
    return [one for one in fitting if _is_called_so(one)] or fitting, reasons


def _is_called_so(fit: DialectFit) -> bool:
    """Whether the dialect asks for a word in the model's name, by which its trainer tells families apart that have the
    same tensors.
    """
    config = fit.dialect.config
    return config is not None and bool(config.contains)


def _fit(checkpoint: Checkpoint, dialect: Dialect, given: Config | None) -> DialectFit | Misfit:
    """How a dialect fits a checkpoint, or why not."""
    if dialect.kind not in (None, checkpoint.kind):
        return Misfit(f"it is of kind {checkpoint.kind}, expected {dialect.kind}", has_its_names=False)
    cover = cover_of(dialect, checkpoint.tensors)
    if isinstance(cover, str):
        return Misfit(cover, has_its_names=False)
    found = _fit_of(cover, checkpoint, dialect, given)
    return Misfit(found, has_its_names=True) if isinstance(found, str) else found


def _fit_of(cover: Cover, checkpoint: Checkpoint, dialect: Dialect, given: Config | None) -> DialectFit | str:
    """The same of a dialect that covers the names."""
    strange = _strange_names(dialect)
    if strange:
        return f"{listing(dialect.model_types)} has no {listing(strange)}"
    sources = None if dialect.config is None else sources_in(checkpoint, dialect.config)
    config = given or _own_config(dialect.config, sources) or checkpoint.config
    is_told_by_config = dialect.config is not None and all(row.is_transformers for row in dialect.rows)
    if config is None or (is_told_by_config and sources is None):
        lacking = f"there is no {'.'.join(dialect.config.at) if dialect.config else 'config'}, and none was given"
        if dialect.config is not None and (checkpoint.path.parent / dialect.config.at[0]).is_file():
            return f"{lacking}: name the directory {checkpoint.path.parent}, where {dialect.config.at[0]} lies"
        return lacking
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
        architecture = architecture_said(config, checkpoint.path)
        told = [name for raw in checkpoint.optimizers for group in raw.groups for name in group.names or ()]
        terms = Terms(spelt_by(told, cover), architecture, _has_optimizers_rows(told, dialect))
        reason = _shape_misfit(terms, checkpoint)
    except ConfigError as error:
        return error.message
    return reason or DialectFit(terms, sources)


def _strange_names(dialect: Dialect) -> set[str]:
    """Names that a dialect takes for transformers', and no family has."""
    families = [FAMILIES[name] for name in dialect.model_types if name in FAMILIES]
    known = {one.name for family in families for one in family.parameters} | {
        one for family in families for one in family.buffers
    }
    return {part.name for row in dialect.rows for part in row.parts} - known


def _has_optimizers_rows(told: Collection[str], dialect: Dialect) -> bool:
    """Whether the optimizer names the tensors that it alone has, or has no other."""
    if dialect.optimizer_rows and not dialect.rows_of_both:
        return True
    ends = {row.theirs.rpartition(LAYER)[2] for row in dialect.optimizer_rows}
    return any(name.endswith(end) for name in bare_names(told).values() for end in ends)


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
    covered = shapes_of_theirs(term for term in terms.weights if not term.is_absent)
    for name, tensor in checkpoint.tensors.items():
        expected = covered.get(name)
        if expected is None:
            return f"its config has no {name}"
        if tensor.shape != expected:
            return f"{name} has shape {list(tensor.shape)}, expected {list(expected)} by its config"
    return None


def are_transformers(names: Collection[str]) -> bool:
    """Whether most names of a file are some family's: others may be heads of another task."""
    patterns = {(one.name, family.base_prefix) for family in FAMILIES.values() for one in family.parameters}
    regexes = [name_regex(*pattern) for pattern in sorted(patterns)]
    known = sum(any(regex.fullmatch(name) for regex in regexes) for name in names)
    return 2 * known > len(names)
