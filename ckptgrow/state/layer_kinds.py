"""What a config says of single layers: windows, rotary positions, dense blocks; by lists, or by numbers of layers.

Transformers derives such kinds from rules where lists are left out ("every sixth layer sees all"); a rule applied to
more layers gives old ones another kind, so the lists are completed first (see `architecture`), and here they move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Family
from ckptgrow.state.sizes import num_layers, with_aliases

EVERY_FAMILYS = ("layer_types", "mlp_layer_types")  # transformers demands one entry a layer of any config's


def dense_layers(family: Family, config: Mapping[str, object], num: int) -> frozenset[int]:
    """Which of `num` layers have a dense block where others have experts."""
    if family.sparse is None:
        return frozenset()
    step, numbers = config.get(family.sparse.step), config.get(family.sparse.dense)
    every = step if isinstance(step, int) and step > 0 else 1
    listed = cast(Collection[object], numbers) if isinstance(numbers, list | tuple) else ()
    return frozenset(layer for layer in range(num) if layer in listed or (layer + 1) % every)


def with_layers(family: Family, config: Mapping[str, Any], sources: Sequence[int], where: str) -> dict[str, Any]:
    """The config of a model whose layers are, or are made from, the old ones `sources`: each of its source's kind.

    `config` is complete: what transformers derives by rules stands in it. Raises ConfigError for a list that has not
    one entry a layer, and for kinds that are said in a way that cannot move.
    """
    old = num_layers(family, config, where)
    if config.get("per_layer_config"):
        raise ConfigError(
            f"{where}: its config sets fields of single layers (per_layer_config), expected layers of one config; they "
            "cannot move"
        )
    changed = {**config, **dict.fromkeys((family.num_layers, *family.stacks.values()), len(sources))}
    for name in dict.fromkeys((*family.layer_lists, *EVERY_FAMILYS)):
        values = config.get(name)
        if isinstance(values, list | tuple):
            entries = cast(Sequence[Any], values)
            if len(entries) != old:
                raise ConfigError(f"{where}: config list {name!r} has {len(entries)} entries, expected one a layer")
            changed[name] = [entries[source] for source in sources]
    if family.sparse is not None:
        dense = dense_layers(family, config, old)
        changed[family.sparse.dense] = [index for index, source in enumerate(sources) if source in dense]
        changed[family.sparse.step] = 1
    return with_aliases(family, changed)
