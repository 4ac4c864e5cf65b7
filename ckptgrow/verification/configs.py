"""Every field of the grown config: growth changes sizes, the number of layers and what is said layer by layer, no more.

Both configs are read as transformers reads them, so that what one leaves to a default and the other spells out is the
same thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from ckptgrow.families.layer_kinds import with_layers
from ckptgrow.families.sizes import num_layers
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences

NEUTRAL = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures", "_attn_implementation"}


def config_problems(pair: Pair) -> list[str]:
    """What differs and should not."""
    small, grown = (_read(state.config) for state in (pair.small, pair.grown))
    expected = {**small, **_changed(pair, grown)}
    kept = [key for key in {**expected, **grown} if key not in NEUTRAL]
    return [problem for key in kept for problem in differences(expected.get(key), grown.get(key), ("config", key))]


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return {**AutoConfig.for_model(str(config["model_type"]), **fields).to_dict()}


def _changed(pair: Pair, grown: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this growth changes, as it must: sizes are those of the tensors, which the weights have shown."""
    family, config = pair.small.family, pair.small.config
    sizes = (size.config for size in family.sizes.values() if size.config is not None)
    found = {name: grown[name] for name in sizes if name in grown}
    if len(pair.layers) != num_layers(family, config, pair.small.where):
        layered = with_layers(family, config, [layer.source for layer in pair.layers], pair.small.where)
        found |= {name: value for name, value in layered.items() if value != config.get(name)}
    if family.padding is not None and pair.growths["residual"].has_fresh:
        residual = pair.growths["residual"]
        found[family.padding.eps] = config[family.padding.eps] * residual.num_old / residual.num_new
    return found
