"""A growth as a file: its operator's options by name, written by hand or out of a checkpoint's record.

    operator: width
    in: small.ckpt        # both paths may stand in the command instead
    out: grown.ckpt
    factor: 2
    lr_rule: mup

Files that a recipe names lie relative to the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ckptgrow.choices import GrowthOperator, words_of
from ckptgrow.errors import RequestError, at
from ckptgrow.growth.contradictions import check_options
from ckptgrow.growth.growth_options import GROWTH_OPTIONS
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.progress import Progress, silent
from ckptgrow.recipes.recipe_options import PLACES_OF_GROWTH, STATE_OPTIONS, growth_options
from ckptgrow.recipes.typed_values import Options, checked

if TYPE_CHECKING:
    from ckptgrow.formats.growth_log import GrowthRecord
    from ckptgrow.growth.growing import Source

OF_ITS_CALL = tuple(name for name in PLACES_OF_GROWTH if name != "config")
PATHS = ("config", "param_order")
PLACES = {"in": "The checkpoint to grow.", "out": "Where to write."}
RECORDED_SIZES = {"residual": "hidden", "heads": "heads", "kv_heads": "kv_heads", "ffn": "ffn"}
OF_READING = ("config", "dialect", "param_order", "allow_nonfinite")  # how the source is read: in no record


@dataclass(frozen=True)
class GrowthRecipe:
    """A growth apart from any checkpoint: `options` by their Python names, those of the training state among them."""

    operator: GrowthOperator
    options: Mapping[str, Any]

    def check(self) -> None:
        """Raises RequestError for options that cannot be, whatever the checkpoint."""
        of_model, of_state = self._parts
        check_options(self.operator, of_model, StateRequest(**of_state))

    @property
    def _parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of the model, and of the training state."""
        of_model = {name: value for name, value in self.options.items() if name not in STATE_OPTIONS}
        return of_model, {name: value for name, value in self.options.items() if name in STATE_OPTIONS}

    def grow(
        self,
        source: Source,
        target: Path | None,
        *,
        max_shard_bytes: int | None = None,
        force: bool = False,
        progress: Progress = silent,
    ) -> GrowthResult:
        """Grows a checkpoint by it; without a target nothing is written, as in `ckptgrow.width`."""
        of_model, of_state = self._parts
        if max_shard_bytes is not None:
            of_state["max_shard_bytes"] = max_shard_bytes
        request = StateRequest(**of_state, force=force)
        from ckptgrow.growth.growths import GROWTHS

        return GROWTHS[self.operator](source, target, **of_model, request=request, progress=progress)


def recipe_in(tree: Mapping[str, Any], file: Path) -> GrowthRecipe:
    """The recipe that a file says; raises RequestError with the field for what is wrong in it."""
    with at(file):
        if "operator" not in tree:
            raise RequestError(f"lacks operator, expected {' or '.join(words_of(GrowthOperator))}")
        operator: GrowthOperator = checked(tree["operator"], GrowthOperator, "operator")
        known = growth_options(operator, OF_ITS_CALL)
        given = {name: value for name, value in tree.items() if name not in ("operator", "$schema", *PLACES)}
        options = known.checked(given, f"recipe of {operator}")
        beside = {name: file.parent / options[name] for name in PATHS if options.get(name) is not None}
        return GrowthRecipe(operator, {**options, **beside})


def recipe_schema(helps: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Recipes as JSON schema; `helps` say what the options of each operator do."""
    places = {name: {"type": "string", "description": text} for name, text in PLACES.items()}
    kinds: list[dict[str, Any]] = []
    for operator in GROWTH_OPTIONS:
        known = Options(growth_options(operator, OF_ITS_CALL).types, helps.get(operator, {})).schema()
        properties = {"operator": {"const": operator}, **places, **known["properties"]}
        kinds.append({**known, "required": ["operator"], "properties": properties})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ckptgrow recipe", "oneOf": kinds}


def recorded_recipe(record: GrowthRecord) -> dict[str, Any]:
    """The options by which a recorded growth happens again, as a recipe has them; those that have their defaults are
    left out. A record does not say how its source was read (`OF_READING`).
    """
    of_model = RECORDED[record["operator"]](record)
    old, new = record["step"]
    step: dict[str, Any] = {} if old == new else {"step": new}
    defaults, otherwise = StateRequest(), SAID_OTHERWISE[record["operator"]]
    of_state = {
        name: list(value) if isinstance(value, list | tuple) else value
        for name, value in record.items()
        if name in STATE_OPTIONS and name not in otherwise and value not in (getattr(defaults, name), [])
    }
    return {"operator": record["operator"], **of_model, **step, **of_state}


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML, an option a line.

    >>> print(recipe_text({"operator": "depth", "layers": [0, 0, 1], "new": "copy"}))
    operator: depth
    layers: [0, 0, 1]
    new: copy
    """

    def written(value: Any) -> str:
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()

    return "\n".join(f"{name}: {written(value)}" for name, value in recipe.items())


def _recorded_width(record: GrowthRecord) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if record.get("factor") is not None:
        found["factor"] = record.get("factor")
    found |= {option: record[space] for space, option in RECORDED_SIZES.items() if space in record}
    found |= {name: value for name in ("how", "separate") if (value := record.get(name)) is not None}
    if record.get("separate") == "noise":
        found["noise"] = record.get("noise")
    if record.get("separate") == "split":
        found["spread"] = record.get("spread")
    if record.get("fresh") is not None:
        found["fresh"] = record.get("fresh")
    return {**found, "seed": record.get("seed", 0)}


def _recorded_vocab(record: GrowthRecord) -> dict[str, Any]:
    asked = {"tokenizer": record.get("tokenizer"), "old_tokenizer": record.get("old_tokenizer")}
    size = {} if record.get("tokenizer") is not None else {"size": record.get("vocab")}
    padded = {"pad_to": record.get("pad_to")} if record.get("pad_to", 1) != 1 else {}
    named = {name: value for name, value in asked.items() if value is not None}
    return {**size, **named, **padded, "init": record.get("init")}


def _recorded_positions(record: GrowthRecord) -> dict[str, Any]:
    return {"size": record.get("position"), "new": record.get("new_positions")}


def _recorded_experts(record: GrowthRecord) -> dict[str, Any]:
    if "dense" in record:
        names = ("experts", "experts_per_token", "to", "shards", "router_noise", "seed")
        return {name: record.get(name) for name in names}
    spread = {"spread": record.get("spread")} if record.get("separate") == "split" else {}
    return {"experts": record.get("experts"), "separate": record.get("separate"), **spread, "seed": record.get("seed")}


def _recorded_depth(record: GrowthRecord) -> dict[str, Any]:
    layers = [layer for layer, _ in record.get("layers", [])]
    found = {"layers": layers, "new": record.get("new")}
    return {**found, "seed": record.get("seed", 0)} if "seed" in record else found


RECORDED: Mapping[GrowthOperator, Callable[[GrowthRecord], dict[str, Any]]] = {
    "width": _recorded_width,
    "depth": _recorded_depth,
    "vocab": _recorded_vocab,
    "positions": _recorded_positions,
    "experts": _recorded_experts,
}
# options of the training state that follow from the operator or stand elsewhere in the record
SAID_OTHERWISE: Mapping[GrowthOperator, tuple[str, ...]] = {
    "width": ("step",),
    "depth": ("step",),
    "vocab": ("step", "fresh_moments"),
    "positions": ("step", "fresh_moments"),
    "experts": ("step",),
}
