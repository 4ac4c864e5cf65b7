"""Every field of the grown config: growth changes sizes, the number of layers and what is said layer by layer, no more.

Both configs are read as transformers reads them, so that what one leaves to a default and the other spells out is the
same thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import AutoConfig

from ckptgrow.families.sizes import num_layers
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences

NEUTRAL = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures", "_attn_implementation"}
NUMBERED = {"mlp_only_layers"}  # layers by their numbers


def config_problems(pair: Pair) -> list[str]:
    """What differs and should not."""
    small, grown = (_read(state.config) for state in (pair.small, pair.grown))
    expected = {**small, **_changed(pair, small, grown)}
    kept = [key for key in {**expected, **grown} if key not in NEUTRAL]
    return [
        problem for key in kept for problem in differences(_given(expected, key), _given(grown, key), ("config", key))
    ]


def _given(config: Mapping[str, Any], key: str) -> Any:
    return config.get(key)


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return {**AutoConfig.for_model(str(config["model_type"]), **fields).to_dict()}


def _changed(pair: Pair, small: Mapping[str, Any], grown: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this growth changes, as it must: sizes are those of the tensors, which the weights have shown."""
    family = pair.small.family
    sizes = (size.config for size in family.sizes.values() if size.config is not None)
    found = {name: grown[name] for name in sizes if name in grown}
    fields = (family.num_layers, *family.also_layers)
    found |= {name: len(pair.layers) for name in fields if name in grown}
    if len(pair.layers) != num_layers(family, pair.small.config, pair.small.where):
        found |= dict(_layered(pair, small))
    if family.padding is not None and pair.growths["residual"].has_fresh:
        residual = pair.growths["residual"]
        found[family.padding.eps] = small[family.padding.eps] * residual.num_old / residual.num_new
    return found


def _layered(pair: Pair, small: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Lists with one entry a layer, and lists of layers' numbers, under the layer map."""
    old = num_layers(pair.small.family, pair.small.config, pair.small.where)
    for name, value in small.items():
        if not isinstance(value, list):
            continue
        if name in NUMBERED:
            yield name, [index for index, layer in enumerate(pair.layers) if layer.source in value]
        elif name in pair.small.family.layer_lists and len(value) == old:
            yield name, [value[layer.source] for layer in pair.layers]
