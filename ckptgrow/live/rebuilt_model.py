"""The grown model, of the old one's class, made of a grown checkpoint in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from ckptgrow.errors import ClaimError, RequestError, listing
from ckptgrow.formats.growth_log import GrowthRecord
from ckptgrow.live.live_state import WHERE, LiveState
from ckptgrow.live.live_tensors import made
from ckptgrow.state.architecture import Architecture, config_errors
from ckptgrow.state.claim import claim
from ckptgrow.state.task_heads import family_of_model
from ckptgrow.state.wrappers import without_wrappers
from ckptgrow.storage.tensors import LazyTensor

CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")  # of modules; the second has its settings


def sources_of(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor], record: GrowthRecord) -> dict[str, str]:
    """For every tensor of the grown model the name of the old one that it is made from."""
    layers = record.get("layers")
    if layers is None:
        return {name: name for name in tensors}
    architecture = Architecture(family_of_model(config, tensors), config, "the grown model")
    claimed = claim(architecture, {name: one.shape for name, one in tensors.items()})
    return {
        one.name: one.name if one.layer is None else one.name_in(int(layers[one.layer][0])) for one in claimed.tensors
    }


def rebuilt_model(
    old: LiveState, config: Mapping[str, Any], tensors: Mapping[str, LazyTensor], sources: Mapping[str, str]
) -> PreTrainedModel:
    """The grown model on the old one's device; what one tensor has several names there has them here.

    Raises RequestError for a class that is not built from its config alone, ClaimError where it has other parameters
    than the grown checkpoint.
    """
    model = _empty(old.model, _grown_config(old.model.config, config))
    expected = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    lacking = expected - tensors.keys()
    if lacking:
        raise ClaimError(f"{WHERE}: the grown model's {listing(lacking)} get no weight, expected one for each")
    last_words = {name.rpartition(".")[2]: one for name, one in old.model.named_buffers()}
    for name, buffer in list(model.named_buffers()):
        like = last_words.get(name.rpartition(".")[2], buffer)
        _put(model, name, buffer.to(old.device, like.dtype if like.is_floating_point() else None))
    by_identity: dict[int, torch.Tensor] = {}
    for name, lazy in tensors.items():
        if id(lazy) not in by_identity:
            by_identity[id(lazy)] = _own(made(lazy, old.device), old.owned[sources[name]])
        _put(model, name, by_identity[id(lazy)])
    _take_over(old.model, model, sources)
    return model


def _grown_config(old: PreTrainedConfig, after: Mapping[str, Any]) -> PreTrainedConfig:
    """A copy of the config with the fields that the growth changed, so that all else in it (as the attention's
    implementation) stays.
    """
    grown, before = copy.deepcopy(old), old.to_dict()
    for field, value in after.items():
        if field not in before or before[field] != value:
            setattr(grown, field, value)
    return grown


def _empty(old: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A model whose parameters hold nothing yet; random numbers that are drawn elsewhere stay what they were."""
    kind = type(old)
    try:
        with torch.random.fork_rng(devices=[]), no_init_weights():
            return kind(config)
    except (AttributeError, *config_errors()) as error:
        reason = str(error).splitlines()[-1].strip()
        raise RequestError(
            f"{WHERE}: no {kind.__name__} could be made of the grown config ({reason}), expected a class that is "
            "built from its config alone, as transformers' are"
        ) from error


def _own(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A parameter where the old tensor is one, which learns where that did."""
    if not isinstance(like, torch.nn.Parameter):
        return tensor
    return torch.nn.Parameter(tensor, requires_grad=like.requires_grad)


def _put(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, tensor)


def _take_over(old: PreTrainedModel, new: PreTrainedModel, sources: Mapping[str, str]) -> None:
    """What is not in a state dict: the settings of generation, and of each module its mode and checkpointing."""
    modules = {without_wrappers(name): one for name, one in reversed(list(old.named_modules()))}
    paths = {"": ""}
    for name, source in sources.items():
        parts, others = name.split("."), source.split(".")
        paths |= {".".join(parts[:length]): ".".join(others[:length]) for length in range(1, len(parts))}
    for name, module in new.named_modules():
        parent, rest = name, ""
        while parent not in paths:  # what has no parameters stands where its parent does
            parent, _, leaf = parent.rpartition(".")
            rest = f".{leaf}{rest}"
        like = modules.get((paths[parent] + rest).strip("."), old)
        module.training = like.training
        for setting in CHECKPOINTING:
            if hasattr(like, setting):
                setattr(module, setting, getattr(like, setting))
    if getattr(old, "generation_config", None) is not None:
        new.generation_config = copy.deepcopy(old.generation_config)
