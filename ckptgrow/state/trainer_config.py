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
        found = node_at(fields, _keys(name))
        if found not in allowed:
            return f"its config says {name} {found!r}, expected {listing(map(repr, allowed))}"
    for name, word in config.contains.items():
        if word not in str(fields.get(name)):
            return f"its config says {name} {fields.get(name)!r}, expected one with {word}"
    for name, value in config.alike.items():
        found: Any = node_at(fields, _keys(name)) or []
        if any(one != value for one in found):
            return f"its config says {name} {found!r}, expected {value!r} for every layer"
    for name in config.needs:
        if node_at(fields, _keys(name)) is None:
            return f"its config does not say {name}, expected a value"
    return _contradiction(config, fields) or _half_of_a_node(config, fields)


def _contradiction(config: ConfigMap, fields: Mapping[str, Any]) -> str | None:
    said: dict[str, tuple[str, Any]] = {}
    for theirs, ours in config.fields:
        value = node_at(fields, _keys(theirs))
        if value is None:
            continue
        other, before = said.setdefault(ours, (theirs, value))
        if value != before:
            return f"its config says {other} {before!r} and {theirs} {value!r}, expected one {ours}"
    return None


def _half_of_a_node(config: ConfigMap, fields: Mapping[str, Any]) -> str | None:
    """What is said of a field with fields inside, of which some are strangers or missing."""
    inside: dict[Keys, set[object]] = {}
    for theirs, ours in config.fields:
        if "." in ours:
            *outer, last = _keys(theirs)
            inside.setdefault(tuple(outer), set()).add(last)
    for keys, expected in inside.items():
        node = node_at(fields, keys)
        if node is not None and set(node) != expected:
            name = ".".join(map(str, keys))
            return f"its config says {name} of {listing(map(str, node))}, expected {listing(map(str, expected))}"
    return None


def as_transformers(config: ConfigMap, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers' config from the trainer's; what the trainer leaves out is left to transformers' defaults."""
    made: Any = {name: value for name, value in config.constants.items() if "." not in name}
    for theirs, ours in config.fields:
        value = node_at(fields, _keys(theirs))
        if value is not None:
            made = with_node(made, _keys(ours), _in_words(value, config.words.get(ours, {})))
    for name, value in config.constants.items():
        if "." in name and node_at(made, _keys(name)[:-1]) is not None:
            made = with_node(made, _keys(name), value)
    return {**made, **_derived(config, made)}


def _derived(config: ConfigMap, made: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' config says besides, where the sizes that tell it are whole numbers."""
    sizes = {name: value for name, value in made.items() if isinstance(value, int)}
    found: dict[str, Any] = {}
    if "num_hidden_layers" in sizes:
        found |= {name: [one] * sizes["num_hidden_layers"] for name, one in config.every_layer.items()}
    for name, (whole, part) in config.quotients.items():
        if name not in made and sizes.get(part, 0) > 0 and whole in sizes:
            found[name] = sizes[whole] // sizes[part]
    return found


def as_trainers(config: ConfigMap, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's config with the fields in which transformers' changed."""
    fields: Any = dict(old)
    before = as_transformers(config, old)
    for theirs, ours in config.fields:
        keys, value = _keys(theirs), node_at(new, _keys(ours))
        is_there = keys[-1] in (node_at(old, keys[:-1]) or {})
        if value is not None and node_at(before, _keys(ours)) != value and is_there:
            fields = with_node(fields, keys, in_trainers_words(config, ours, value))
    for name, value in config.alike.items():
        if isinstance(old.get(name), list) and "num_hidden_layers" in new:
            fields[name] = [value] * new["num_hidden_layers"]
    return fields


def in_trainers_words(config: ConfigMap, ours: str, value: Any) -> Any:
    """What the trainer says for a value of a field of transformers'."""
    return _in_words(value, {word: theirs for theirs, word in config.words.get(ours, {}).items()})


def _in_words(value: Any, words: Mapping[Any, Any]) -> Any:
    """A value, or each entry of a list, by its word; the same where it has none."""
    return [words.get(one, one) for one in value] if isinstance(value, list) and words else value


def _keys(name: str) -> Keys:
    return tuple(name.split("."))


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
