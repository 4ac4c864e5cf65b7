"""The architecture of a mixture that computes what a dense model does.

Its G experts have the dense block's units in equal parts, and every token has all of them (K = G) with equal weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

from ckptgrow.errors import ConfigError, RequestError
from ckptgrow.families.family import Family, OfDense
from ckptgrow.families.registry import FAMILIES
from ckptgrow.state.architecture import Architecture, config_errors
from ckptgrow.state.config_sources import completed_config

SHARED_FFN = "shared_ffn"  # the space of an expert that every token has
META = ("architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path", "model_type")


def mixtures_of(model_type: str) -> list[str]:
    """The families of mixtures that models of a dense family can become, in the order of the tables."""
    return [name for name, one in FAMILIES.items() if one.of_dense and model_type in one.of_dense.families]


def has_experts(family: Family) -> bool:
    """Whether models of a family have experts."""
    return "experts" in family.sizes


def mixture_architecture(old: Architecture, to: str | None, shards: int) -> Architecture:
    """The architecture of the mixture of `shards` experts that a dense model is restated as, of the family `to`; None:
    the first that fits.

    Raises RequestError where none fits, or not this one, where the units cannot be parted, or a field of the dense
    config asks for what the mixture does not compute.
    """
    family = _family(old, to)
    ffn = old.sizes["ffn"]
    if ffn % shards:
        raise RequestError(
            f"⟦shards {shards}⟧: {old.where} has {ffn} units in each feed-forward block, expected a divisor of that"
        )
    assert family.of_dense is not None
    kept = {**_kept_fields(old, family, family.of_dense), **_sizes(family, old, shards)}
    return Architecture(family, completed_config(family, kept), old.where)


def _family(old: Architecture, to: str | None) -> Family:
    dense, fitting = old.family.model_type, mixtures_of(old.family.model_type)
    if old.family is not FAMILIES[dense]:
        raise RequestError(f"{old.where}: has a head for another task, expected a language model's; grow this one")
    can = "; ".join(
        f"{name} (of {', '.join(one.of_dense.families)})" for name, one in FAMILIES.items() if one.of_dense is not None
    )
    if not fitting:
        raise RequestError(
            f"{old.where}: no mixture has the attention and norms of {dense}, expected one of those from which a "
            f"mixture can be made: {can}"
        )
    if to is None or to in fitting:
        return FAMILIES[to or fitting[0]]
    if to not in FAMILIES or not has_experts(FAMILIES[to]):
        raise RequestError(f"⟦to {to}⟧: is no family of mixtures that is known here, expected {' or '.join(fitting)}")
    raise RequestError(
        f"⟦to {to}⟧: its blocks are not those of {dense} ({_difference(old.family, FAMILIES[to])}), expected "
        f"{' or '.join(fitting)}"
    )


def _difference(dense: Family, mixture: Family) -> str:
    """The first parameter outside of the feed-forward blocks that one of the two has and the other has not."""
    blocks = ("ffn", "dense_ffn", SHARED_FFN, "shared", "experts", "routed")
    rows = [
        {(one.name, one.layout) for one in family.parameters if not any(space in one.layout for space in blocks)}
        for family in (dense, mixture)
    ]
    only = [sorted(one - other) for one, other in (rows, rows[::-1])]
    if only[1]:
        return f"it has {only[1][0][0]}, “{only[1][0][1]}”"
    return f"it lacks {only[0][0][0]}, “{only[0][0][1]}”" if only[0] else "its router or its experts compute otherwise"


def _kept_fields(old: Architecture, family: Family, rule: OfDense) -> dict[str, Any]:
    """The dense config's fields that the mixture's has too, as transformers completes them, and those that only the
    user's config has.
    """
    dense, defaults = _full(old.family.model_type, old.config), _full(family.model_type, {})
    known = defaults.keys() | {one.config for one in family.sizes.values()}
    of_dense = _full(old.family.model_type, {})
    for field in sorted(dense.keys() - known - {*META, *rule.unheard}):
        if field not in rule.without and field in of_dense:
            raise RequestError(f"{old.where}: its config says {field}, of which {family.model_type} knows nothing")
        if field in rule.without and not _says(dense[field], rule.without[field]):
            raise RequestError(
                f"{old.where}: its config says {field} {str(dense[field])[:40]}, expected {rule.without[field]}: "
                f"{family.model_type} computes nothing else"
            )
    left_out = {*((*rule.without, *rule.unheard))} - known | {*META}
    kept = {
        field: value
        for field, value in dense.items()
        if field not in left_out and (field in old.config or defaults.get(field) != value)
    }
    own = {field: old.config[field] for field in META if field in old.config}
    own |= {"architectures": [_class_of(family)]} if own.get("architectures") else {}
    forced = {**rule.fields, **rule.families[old.family.model_type]}
    return {**own, **kept, **forced, "model_type": family.model_type}


def _class_of(family: Family) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family.model_type])


def _says(found: object, expected: object) -> bool:
    """Whether a field says what it must, or all entries of a list do."""
    entries = cast(Sequence[object], found) if isinstance(found, list | tuple) else [found]
    return all((one or False) == (expected or False) for one in entries)


def _sizes(family: Family, old: Architecture, shards: int) -> dict[str, int]:
    ffn = old.sizes["ffn"]
    sizes = {"experts": shards, "dense_ffn": ffn, SHARED_FFN: ffn, "ffn": ffn // shards}
    return {**dict(_fields(family, sizes)), family.choice.chosen: shards}


def _fields(family: Family, sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for space, size in sizes.items():
        field = family.sizes[space].config if space in family.sizes else None
        if field is not None:
            yield field, size


def _full(model_type: str, config: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    # deep: transformers writes into what is inside
    fields = deepcopy({key: value for key, value in config.items() if key != "model_type"})
    try:
        return AutoConfig.for_model(model_type, **fields).to_dict()
    except config_errors() as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"transformers refuses this config ({reason})") from error
