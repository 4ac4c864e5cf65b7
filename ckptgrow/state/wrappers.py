"""Names inside modules that other modules wrap: compiled, checkpointed or sharded ones, whole or layer by layer.

    model._orig_mod.layers.0._checkpoint_wrapped_module.mlp.weight  is  model.layers.0.mlp.weight

Source of the words: torch's `OptimizedModule`, `CheckpointWrapper`, `FullyShardedDataParallel` and
`DistributedDataParallel`; Lightning's `_LightningModuleWrapperBase` of old.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
ALSO_A_USERS_WORD = "module"  # of DistributedDataParallel and AveragedModel, and of people


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """For every name the one without wrappers; different names stay different, if need be by keeping their wrappers.

    >>> bare_names(["module._orig_mod.h.0.bias", "average.module.h.0.bias"])
    {'module._orig_mod.h.0.bias': 'h.0.bias', 'average.module.h.0.bias': 'average.h.0.bias'}
    """
    distinct = dict.fromkeys(names)
    for wrappers in ({*WRAPPERS, ALSO_A_USERS_WORD}, WRAPPERS):
        bare = {name: without_wrappers(name, wrappers) for name in distinct}
        if len(set(bare.values())) == len(bare):
            return bare
    return {name: name for name in distinct}


def with_part(name: str, bare: str, start: int, part: str) -> str:
    """The name with `part` in the place of the part that begins at `start` of its bare form.

    >>> with_part("h._orig_mod.0.bias", "h.0.bias", 2, "{layer}")
    'h._orig_mod.{layer}.bias'
    """
    parts, kept = name.split("."), bare.split(".")
    places: list[int] = []
    for index, word in enumerate(parts):
        if len(places) < len(kept) and word == kept[len(places)]:
            places.append(index)
    parts[places[bare[:start].count(".")]] = part
    return ".".join(parts)


def without_wrappers(name: str, wrappers: Collection[str] = WRAPPERS) -> str:
    """A single name without some wrappers' words; several may come to be the same."""
    return ".".join(part for part in name.split(".") if part not in wrappers)
