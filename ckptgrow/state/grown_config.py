"""The config of a grown model, with its new sizes or its new layers.

Configs describe single layers by lists or by numbers of layers (windows, rotary positions, dense blocks). Where lists
are left out, transformers derives them by rules, such as "every sixth layer sees all". Such a rule would give old
layers another kind in a deeper model. So the lists are completed first (see `config_sources`), and here their entries
move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ckptgrow.errors import ConfigError, at
from ckptgrow.families.family import Family
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.layer_kinds import check_kinds, moved_numbers, moved_rules

EVERY_FAMILYS = ("layer_types", "mlp_layer_types")  # transformers demands one entry a layer of any config's


def with_sizes(old: Architecture, new: Mapping[str, int]) -> dict[str, Any]:
    """The config of a model whose spaces have new sizes.

    A field that was left to the architecture (absent or null) stays so where the architecture then derives the new
    size by itself. Raises ConfigError where the config has no way of saying a size.
    """
    family, changed = old.family, dict(old.config)
    if family.rounding is not None and old.holds(family.rounding.when):
        changed[family.rounding.when] = False
    for space, size in family.sizes.items():
        field = size.config
        if field is not None and isinstance(old.config.get(field), int):
            changed[field] = new[space]
    for space, size in family.sizes.items():
        if size.config is not None and _sizes(old, changed)[space] != new[space]:
            changed[size.config] = new[space]
    moved = {field: name for field, name in family.equal.items() if changed.get(name) != old.config.get(name)}
    changed |= {field: changed[name] for field, name in moved.items() if field in changed}
    found = _sizes(old, changed)
    for space in family.sizes:
        if found[space] != new[space]:
            raise ConfigError(
                f"{old.where}: {family.model_type} configs derive the size of {space!r} as {found[space]}, "
                f"expected {new[space]}; no field can say it, so this growth cannot be written down"
            )
    return with_aliases(family, changed)


def _sizes(old: Architecture, changed: Mapping[str, Any]) -> Mapping[str, int]:
    """The sizes by a changed config; raises ConfigError where they do not go together."""
    try:
        return old.with_config(changed).sizes
    except ConfigError as error:
        what = error.message.marked.removeprefix(f"{old.where}: ")
        raise ConfigError(
            f"{old.where}: {old.family.model_type} configs derive the size of a head, and {what}; no field can say "
            "it, so this growth cannot be written down"
        ) from error


def with_layers(old: Architecture, sources: Sequence[int]) -> dict[str, Any]:
    """The config of a model whose layers are, or are made from, the old ones `sources`: each of its source's kind.

    Raises ConfigError for a list that has not one entry a layer, and for kinds that are said in a way that cannot move.
    """
    family, config = old.family, old.config
    with at(old.where):
        if config.get("per_layer_config"):
            raise ConfigError(
                "its config sets fields of single layers (per_layer_config), expected layers of one config; they "
                "cannot move"
            )
        lists = _moved_lists(old, sources)
    changed = {**config, **dict.fromkeys((family.num_layers, *family.stacks.values()), len(sources)), **lists}
    changed = {name: value for name, value in changed.items() if name not in family.restated}
    changed |= {
        name: config[name] * (len(sources) / old.num_layers) ** power
        for name, power in family.of_depth.items()
        if config.get(name) is not None
    }
    with at(old.where):
        changed |= moved_rules(family, config, sources) | moved_numbers(family, config, sources)
        check_kinds(family, config, changed, sources)
    return with_aliases(family, changed)


def _moved_lists(old: Architecture, sources: Sequence[int]) -> dict[str, list[Any]]:
    """The config's lists with an entry a layer, each new layer with its source's."""
    moved: dict[str, list[Any]] = {}
    for name in dict.fromkeys((*old.family.layer_lists, *EVERY_FAMILYS)):
        values = old.config.get(name)
        if isinstance(values, list | tuple):
            entries = cast(Sequence[Any], values)
            if len(entries) != old.num_layers:
                raise ConfigError(f"config list {name!r} has {len(entries)} entries, expected one a layer")
            moved[name] = [entries[source] for source in sources]
    return moved


def with_aliases(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with fields that it has under two names equal under both: transformers lets the alias decide."""
    return {**config, **{alias: config.get(name) for alias, name in family.aliases.items() if alias in config}}
