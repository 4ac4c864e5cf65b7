"""A tiny config of a model type: small sizes that differ from each other, every kind of layer that the class has."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Head
from ckptgrow.state.architecture import config_errors
from ckptgrow.state.model import build_model, class_of

Shapes = Mapping[str, tuple[int, ...]]
Fields = Mapping[str, Any]
FOR_HEADS: Mapping[Head, str] = {  # in this order: a class that has several is drafted with the first
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}
# what transformers' configs call the sizes that nearly all have, and how large they are made
SPACES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "residual": (("hidden_size", "d_model", "n_embd"), 32),
    "heads": (("num_attention_heads", "encoder_attention_heads", "num_heads", "n_head"), 4),
    "kv_heads": (("num_key_value_heads", "num_kv_heads"), 2),
    "head": (("head_dim", "d_kv"), 8),
    "ffn": (("intermediate_size", "ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "n_inner", "d_ff"), 20),
    "vocab": (("vocab_size",), 40),
    "position": (("max_position_embeddings", "n_positions", "max_seq_len"), 32),
}
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers")
GROUPS = r"(n|expert)_groups?$"
OTHERS: tuple[tuple[str, int], ...] = (  # what a field is made by a part of its name
    (r"window|local_attention", 5),
    (r"per_tok|top_k$|moe_k$|topk$", 2),
    (r"topk_group", 1),
    (r"experts$", 3),
    (r"layers$", 2),
    (r"heads$", 4),
    (GROUPS, 2),
    (r"rope_head_dim$", 8),
    (r"ffn|intermediate|d_ff", 12),
)
LARGE = 16
GENERIC = (12, 16, 8, 10, 4, 2)
MOST_LAYERS = 10
NOT_SIZES = re.compile(r"_id$|_ids$|^_|^output_|^chunk_size|^num_labels|_token$|^return_dict|^use_cache|^transformers")


@dataclass(frozen=True, eq=False)
class Tiny:
    """A tiny model of a class: the fields of its config over the class's own values, and the class's head."""

    model_type: str
    head: Head
    fields: Fields

    def config(self, **changed: Any) -> PreTrainedConfig:
        """The config; raises ConfigError where transformers refuses it."""
        try:
            return AutoConfig.for_model(self.model_type, **{**self.fields, **changed})
        except config_errors() as error:
            raise ConfigError(f"transformers refuses this config ({' '.join(str(error).split())[:200]})") from error

    def shapes(self, **changed: Any) -> Shapes:
        """The shapes of a model's parameters, by their names; tied ones once, under the first name.

        Raises ConfigError where transformers builds no such model.
        """
        return {name: tuple(one.shape) for name, one in self.on_meta(**changed).named_parameters()}

    def on_meta(self, **changed: Any) -> PreTrainedModel:
        """A model without memory; raises ConfigError where transformers builds none."""
        config, verbosity = self.config(**changed), logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            with no_init_weights(), torch.device("meta"):
                return class_of(self.head).from_config(config)
        except Exception as error:  # classes' own code, with sizes that nobody has tried
            raise ConfigError(f"no {self.model_type} of these sizes ({_told(error)})") from error
        finally:
            logging.set_verbosity(verbosity)

    def built(self, **changed: Any) -> PreTrainedModel:
        """A real model in float64; raises ConfigError as `on_meta` does."""
        config = self.config(**changed).to_dict()
        try:
            return build_model(config, torch.float64, self.head)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"no {self.model_type} of these sizes ({_told(error)})") from error

    @cached_property
    def own_fields(self) -> dict[str, Any]:
        """All fields of the config, as transformers names them."""
        return self.config().to_dict()

    def field_of(self, names: tuple[str, ...]) -> str | None:
        """The config's own field among the names that configs have for one thing."""
        config = self.config()
        renamed = cast(Mapping[str, str], config.attribute_map)
        own = (renamed.get(name, name) for name in names)
        return next((name for name in own if name in self.own_fields), None)


def tiny(model_type: str, runs: Callable[[Tiny], bool], like: Fields | None = None) -> Tiny:
    """A tiny model of a transformers model type that builds, and that `runs`; `like`: fields of a config of it.

    Raises ConfigError for a type that transformers has not, that has no head of a kind that tables know, or of which no
    tiny model runs.
    """
    one = Tiny(model_type, _head_of(model_type), like or {})
    before = one.own_fields
    one = _first_running(_with_usual_sizes(one), runs)
    made_small = {name for name, value in one.fields.items() if value != before.get(name)}
    for name, value in one.own_fields.items():
        if name not in made_small and not NOT_SIZES.search(name) and type(value) is int and value > LARGE:
            one = next((made for made in _smaller(one, name, value) if _is_running(made, runs)), one)
    return _with_all_layers(one, before, runs)


def _head_of(model_type: str) -> Head:
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(f"{model_type}: transformers has no such model type, expected one of its own")
    inside = cast(Mapping[str, Any], CONFIG_MAPPING[model_type].sub_configs).get("text_config")
    if inside is not None:
        named = getattr(inside, "model_type", "") or "that of its text_config"
        raise ConfigError(
            f"{model_type}: its config holds one of a text model (text_config), expected a model of tokens alone; "
            f"draft the model inside it, {named}"
        )
    for head, names in FOR_HEADS.items():
        if model_type in getattr(modeling_auto, names):
            return head
    raise ConfigError(
        f"{model_type}: transformers has no class of it with a head over tokens, expected a language model; name the "
        "text model inside it, or write its table by hand"
    )


def _with_usual_sizes(one: Tiny) -> Iterator[Tiny]:
    """The same with the sizes that nearly all models have made small, the more of them the better."""
    ids = (name for name in one.own_fields if name.endswith("_token_id"))
    small: dict[str, Any] = {name: 0 for name in ids if type(one.own_fields[name]) is int}
    usual = {field: size for names, size in SPACES.values() if (field := one.field_of(names)) is not None}
    layers = one.field_of(LAYERS)
    own = {**small, **usual, **({layers: 2} if layers is not None else {})}
    for name, value in one.own_fields.items():
        number = next((size for pattern, size in OTHERS if re.search(pattern, name)), None)
        if name not in own and number is not None and type(value) is int and value > number:
            own[name] = number
        if isinstance(value, float) and "drop" in name:
            own[name] = 0.0
    own |= _kinds(one, layers)
    own |= {name: 4 for name in own if re.search(r"experts$", name) and any(re.search(GROUPS, other) for other in own)}
    heads, kv, head = (one.field_of(SPACES[space][0]) for space in ("heads", "kv_heads", "head"))
    several = {**own, kv: own[heads]} if kv is not None and heads is not None else own  # a key head for each query
    for fields, without in (
        (own, ()),
        (several, ()),
        (own, (kv,)),
        (own, (head,)),
        (several, (head,)),
        (own, (kv, head)),
    ):
        kept = {name: value for name, value in fields.items() if name not in without}
        yield Tiny(one.model_type, one.head, {**one.fields, **kept})


def _kinds(one: Tiny, layers: str | None) -> dict[str, Any]:
    """Of config lists with one entry a layer, one layer of each kind that the class's own config has."""
    num = one.own_fields.get(layers or "")
    lists = {
        name: list(dict.fromkeys(value))
        for name, value in one.own_fields.items()
        if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value)
        if len(value) == num or (layers is None and "layer" in name)
    }
    most = max((len(kinds) for kinds in lists.values()), default=0)
    if not most:
        return {}
    length = max(most, 2)
    kinds = {name: (found * length)[:length] for name, found in lists.items()}
    return {**kinds, **({layers: length} if layers is not None else {})}


def _smaller(one: Tiny, name: str, value: int) -> Iterator[Tiny]:
    """The same with a smaller field, where it is the size of some parameter."""
    before = one.shapes()
    for size in GENERIC:
        made = Tiny(one.model_type, one.head, {**one.fields, name: size})
        try:
            if made.shapes() == before:
                return
        except ConfigError:
            continue
        yield made


def _with_all_layers(one: Tiny, before: Fields, runs: Callable[[Tiny], bool]) -> Tiny:
    """The same with so many layers that every kind of parameter that the class's own number has is there."""
    layers = one.field_of(LAYERS)
    if layers is None or layer_lists_in(one.fields, one.fields.get(layers)):
        return one
    own = before[layers]
    try:
        wanted = templates(Tiny(one.model_type, one.head, {**one.fields, layers: own}).shapes())
    except ConfigError:
        return one
    for num in range(one.fields.get(layers, 2), MOST_LAYERS + 1):
        made = Tiny(one.model_type, one.head, {**one.fields, layers: num})
        try:
            if templates(made.shapes()) >= wanted and _is_running(made, runs):
                return made
        except ConfigError:
            continue
    return one


def layer_lists_in(fields: Fields, num: object) -> dict[str, list[str]]:
    """The fields that are lists of words, one for each of so many layers."""
    return {
        name: cast(list[str], value)
        for name, value in fields.items()
        if isinstance(value, list) and len(cast(list[object], value)) == num
        if all(isinstance(one, str) for one in cast(list[object], value))
    }


def templates(names: Mapping[str, object]) -> set[str]:
    """Names with their numbers left open."""
    return {re.sub(r"\.\d+\.", ".{}.", name) for name in names}


def _first_running(several: Iterator[Tiny], runs: Callable[[Tiny], bool]) -> Tiny:
    reasons: list[str] = []
    for one in several:
        with collected(reasons):
            if runs(one):
                return one
    reason = reasons[0] if reasons else "its logits are not finite"
    raise ConfigError(f"no tiny model of this type runs ({reason}); name a config of it that does with ⟦like FILE⟧")


@contextmanager
def collected(reasons: list[str]) -> Generator[None]:
    """Keeps the message of a ConfigError instead of raising it."""
    try:
        yield
    except ConfigError as error:
        reasons.append(error.message)


def _is_running(one: Tiny, runs: Callable[[Tiny], bool]) -> bool:
    try:
        return runs(one)
    except ConfigError:
        return False


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
