"""A trainer's own config: found in its file or beside it, read as transformers', and written again as the trainer's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckptgrow.dialects.dialect import ConfigMap
from ckptgrow.errors import listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.storage.files.json_files import read_json
from ckptgrow.storage.files.yaml_files import read_yaml
from ckptgrow.storage.tree import Keys, node_at, with_node

READERS = {".json": read_json, ".yaml": read_yaml, ".yml": read_yaml}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a checkpoint has the trainer's config: keys of its tree with what lies there, or a file beside it, which
    holds `document`, and the config under its keys `inside`.
    """

    nodes: Mapping[Keys, Mapping[str, Any]]
    file: str | None
    fields: Mapping[str, Any]
    document: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inside: Keys = ()


def sources_in(checkpoint: Checkpoint, config: ConfigMap) -> Sources | None:
    """The trainer's config in a checkpoint, None where it has none."""
    file = config.at[0] if config.at[0] in checkpoint.carried.files else None
    roots: list[Keys] = [(), *((key,) for key in checkpoint.rest)]
    nodes: dict[Keys, Mapping[str, Any]] = {}
    for place in (config.at, *config.also):
        for keys in ((*root, *place) for root in roots):
            node = node_at(checkpoint.rest, keys)
            if isinstance(node, dict):
                nodes[keys] = node
    if file is not None:
        path = checkpoint.carried.directory / file
        document, inside = READERS[path.suffix](path), config.at[1:]
        own = node_at(document, inside)
        found = Sources(nodes=nodes, file=file, fields=own or {}, document=document, inside=inside)
        return found if isinstance(own, dict) else None
    own = next((node for keys, node in nodes.items() if keys[-len(config.at) :] == config.at), None)
    return None if own is None else Sources(nodes=nodes, file=None, fields=own)


def misfit(config: ConfigMap, fields: Mapping[str, Any]) -> str | None:
    """Why a trainer's config is none that the map is right for."""
    for name, allowed in config.expects.items():
        found = node_at(fields, tuple(name.split(".")))
        if found not in allowed:
            return f"its config says {name} {found!r}, expected {listing(map(repr, allowed))}"
    for name, word in config.contains.items():
        if word not in str(fields.get(name)):
            return f"its config says {name} {fields.get(name)!r}, expected one with {word}"
    said: dict[str, tuple[str, Any]] = {}
    for theirs, ours in config.fields:
        value = node_at(fields, tuple(theirs.split(".")))
        other, before = said.setdefault(ours, (theirs, value))
        if value != before:
            return f"its config says {other} {before!r} and {theirs} {value!r}, expected one {ours}"
    return None


def as_transformers(config: ConfigMap, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers' config from the trainer's; what the trainer leaves out is left to transformers' defaults."""
    found = {ours: node_at(fields, tuple(theirs.split("."))) for theirs, ours in config.fields}
    return {**config.constants, **{name: value for name, value in found.items() if value is not None}}


def as_trainers(config: ConfigMap, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's config with the fields in which transformers' changed."""
    fields: Any = dict(old)
    before = as_transformers(config, old)
    for theirs, ours in config.fields:
        keys = tuple(theirs.split("."))
        if ours in new and before.get(ours) != new[ours] and keys[-1] in (node_at(old, keys[:-1]) or {}):
            fields = with_node(fields, keys, new[ours])
    return fields


def without_fields(checkpoint: Checkpoint, config: ConfigMap, sources: Sources) -> Checkpoint:
    """A checkpoint that carries of its trainer's config what the map does not read."""
    rest: Any = checkpoint.rest
    names = {theirs.partition(".")[0] for theirs, _ in config.fields}
    for keys, node in sources.nodes.items():
        rest = with_node(rest, keys, {name: value for name, value in node.items() if name not in names})
    carried = checkpoint.carried if sources.file is None else checkpoint.carried.without({sources.file})
    return replace(checkpoint, rest=rest, carried=carried)


def with_fields_again(checkpoint: Checkpoint, config: ConfigMap, sources: Sources) -> Checkpoint:
    """The reverse, its fields by transformers' config."""
    new: Mapping[str, Any] = checkpoint.config or {}
    rest: Any = checkpoint.rest
    for keys, node in sources.nodes.items():
        rest = with_node(rest, keys, as_trainers(config, node, new))
    carried = checkpoint.carried
    if sources.file is not None:
        document = with_node(sources.document, sources.inside, as_trainers(config, sources.fields, new))
        changed = {**carried.changed, sources.file: document}
        carried = replace(carried, files=(*carried.files, sources.file), changed=changed)
    return replace(checkpoint, rest=rest, carried=carried)
