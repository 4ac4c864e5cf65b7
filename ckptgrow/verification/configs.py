"""The grown config: only what the growth changes may differ from the small one.

    sizes           the fields of spaces that copies or fresh coordinates make larger
    layers          their number, and every list with one entry for each layer, moved along the layer map
    kinds           kinds of single layers that transformers derives by a rule where the config says nothing: now said
    periods         of kinds of layers that come round: so that each layer has its source's
    factors         that depend on the number of layers
    ε of pads       the old one, times old over new hidden size

Both configs are also completed by transformers and compared again, so that no default makes a difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ckptgrow.families.family import Family, Sparse
from ckptgrow.state.architecture import config_errors
from ckptgrow.state.opening import TrainingState
from ckptgrow.verification.coordinates import EXPERT_SPACES, ROWS, growths_since, mixture_record
from ckptgrow.verification.history import EXPERTS
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences, is_count, text
from ckptgrow.verification.vocabularies import Vocabularies, is_of_tokens

Config = Mapping[str, Any]
NEUTRAL = ("dtype", "torch_dtype", "_name_or_path", "transformers_version")
ROUNDING = 1e-12  # relative, of an ε that was multiplied in float64


def config_problems(pair: Pair) -> list[str]:
    """Every field of the grown config that is not what it must be, in sentences."""
    small, grown = pair.small.config, pair.grown.checkpoint.config
    if grown is None:
        return ["the grown checkpoint has no config, expected one"]
    changed = _changed_fields(pair)
    found, expected = ({key: value for key, value in one.items() if key not in changed} for one in (grown, small))
    return [
        *differences(found, expected, ("config",)),
        *_size_problems(pair, small, grown),
        *_token_problems(pair, small, grown),
        *_expert_problems(pair, small, grown),
        *_layer_problems(pair, small, grown),
        *_derived_problems(pair, changed),
    ]


def with_fixed_fields(pair: Pair) -> dict[str, Any]:
    """The grown config, with the small one's values in all fields that no growth changes.

    The grown model is run with this config. One that differs in other fields comes from no growth, and may not describe
    a model at all.
    """
    changed = _changed_fields(pair)
    own = {key: value for key, value in pair.grown.config.items() if key in changed}
    fixed = {key: value for key, value in pair.small.config.items() if key not in changed}
    if (eps := _eps(pair)) is not None and eps.field in own:
        own[eps.field] = eps.expected
    return {**fixed, **own}


def _changed_fields(pair: Pair) -> set[str]:
    """The fields that this growth may change; each is judged by a rule of its own."""
    family = pair.grown.family
    fields = {*_size_fields(pair)}
    if pair.row_record is not None:
        fields |= {family.longest} if pair.row_record.get("operator") == "positions" else set()
        if Vocabularies.of(pair) is not None:
            fields |= {key for key in pair.small.config.keys() | pair.grown.config.keys() if is_of_tokens(key)}
    if family.rounding is not None and _is_rounded(pair.small, family.rounding.field):
        fields.add(family.rounding.when)
    if _expert_spaces(pair):
        fields |= {family.choice.chosen, *(family.choice.groups or ())}
    if len(pair.layers) != _num_layers(pair):
        fields |= {*family.layer_numbers} | _layer_fields(family) | set(_lists_of(pair, pair.small.config))
        fields |= {*family.sparse.rules} if family.sparse else set()
        fields |= {*family.restated, *family.of_depth} | {name for two in family.periodic.values() for name in two}
    if (eps := _eps(pair)) is not None:
        fields.add(eps.field)
    return fields | {alias for alias, name in {**family.aliases, **family.equal}.items() if name in fields}


def _size_fields(pair: Pair) -> dict[str, str]:
    """The fields of sizes that can grow, with their spaces; a head's size may be said where it was derived before."""
    family = pair.grown.family
    growing = (*family.residual, *family.units, *_row_spaces(pair), *_expert_spaces(pair), "head")
    return {size.config: space for space in growing if (size := family.sizes.get(space)) and size.config is not None}


def _name_problems(family: Family, small: Config, grown: Config) -> Iterator[str]:
    """Fields under two names must be equal, and so must those that the model wants equal where one has changed."""
    moved = {field: name for field, name in family.equal.items() if grown.get(name) != small.get(name)}
    for field in family.equal.keys() - moved.keys():
        if grown.get(field) != small.get(field):
            yield f"config[{field!r}] is {text(grown.get(field))}, expected {text(small.get(field))}"
    for alias, name in {**family.aliases, **moved}.items():
        if alias in small and grown.get(alias) != grown.get(name):
            yield f"config[{alias!r}] is {text(grown.get(alias))}, expected {text(grown.get(name))} as {name}"


def _size_problems(pair: Pair, small: Config, grown: Config) -> Iterator[str]:
    family = pair.grown.family
    old, new = (one.architecture.sizes for one in (pair.small, pair.grown))
    allowed = _growing_spaces(family) | _row_spaces(pair) | _expert_spaces(pair)
    for space in sorted(old.keys() | new.keys()):
        if old.get(space) != new.get(space) and space not in allowed:
            yield f"the size of {space} is {new.get(space)}, expected {old.get(space)}"
    for field, space in _size_fields(pair).items():
        if field not in grown and field not in small:
            continue
        if space == "head" and grown.get(field) is not None and new[space] != old[space]:
            yield f"config[{field!r}] is {text(grown[field])}, expected {old[space]}"
        said = small.get(field) if _is_rounded(pair.grown, field) else new[space]
        if small.get(field) is not None and (grown.get(field) != said or isinstance(grown.get(field), bool)):
            yield f"config[{field!r}] is {text(grown.get(field))}, expected {said}"
        if (
            small.get(field) is None
            and grown.get(field) is not None
            and new[space] == _derived_size(pair, field, space)
        ):
            yield f"config[{field!r}] is {text(grown[field])}, expected none, for it follows from others"
    yield from _name_problems(family, small, grown)
    if (eps := _eps(pair)) is not None:
        told = grown.get(eps.field)
        if not isinstance(told, float) or not math.isclose(told, eps.expected, rel_tol=ROUNDING):
            yield f"config[{eps.field!r}] is {text(told)}, expected {eps.expected:g}"


def _is_rounded(state: TrainingState, field: str) -> bool:
    """Whether the model makes another size of a field's value."""
    rule = state.family.rounding
    return rule is not None and rule.field == field and state.architecture.holds(rule.when)


def _row_spaces(pair: Pair) -> set[str]:
    """The space of which a growth replaced rows."""
    return set() if pair.row_record is None else {ROWS[pair.row_record["operator"]]}


def _expert_spaces(pair: Pair) -> set[str]:
    """The spaces of experts, where a growth copied these."""
    records = growths_since(pair.small, pair.grown)
    return {*EXPERT_SPACES} if any(one.get("operator") == EXPERTS for one in records) else set()


def _expert_problems(pair: Pair, small: Config, grown: Config) -> Iterator[str]:
    """As many experts must be chosen for a token as the chosen ones have copies, and so must groups of them."""
    growth, choice = pair.growths.get(EXPERTS), pair.grown.family.choice
    if not _expert_spaces(pair) or growth is None:
        return
    record, last = mixture_record(pair.small, pair.grown), growths_since(pair.small, pair.grown)[-1]
    times = growth.num_new // growth.num_old
    expected = int(small[choice.chosen]) * times if record is None else _chosen_of_dense(pair, record)
    said = [grown.get(choice.chosen), last.get("experts_per_token", expected)]
    if said != [expected, expected] or any(isinstance(one, bool) for one in said):
        yield f"config[{choice.chosen!r}] is {text(said[0])}, expected {expected}, as the history must say"
    fields = choice.groups or ()
    is_grouped = bool(fields) and is_count(small.get(fields[0])) and small[fields[0]] > 1
    for field in fields:
        number = small.get(field)
        wanted = number * times if is_grouped and is_count(number) else number
        if grown.get(field) != wanted:
            yield f"config[{field!r}] is {text(grown.get(field))}, expected {text(wanted)}"


def _chosen_of_dense(pair: Pair, record: Mapping[str, Any]) -> int:
    """How many experts a token has where they are parts of dense blocks: as the record says, all parts of some copies.

    Where an expert that every token has does all the work, it may be any number.
    """
    chosen, parts, number = record["experts_per_token"], record["shards"], record["experts"]
    can_be_any = "shared_ffn" in pair.grown.architecture.sizes
    is_right = 0 < chosen <= number and (can_be_any or chosen % parts == 0)
    return chosen if is_right else -1


def _token_problems(pair: Pair, small: Config, grown: Config) -> Iterator[str]:
    """What is wrong with the fields that name tokens by their numbers, and with the longest sequence."""
    vocabularies, record = Vocabularies.of(pair), pair.row_record
    if vocabularies is not None:
        yield from vocabularies.fields(small, grown, "config")
        yield from vocabularies.problems()
    is_of_config = record is not None and record.get("operator") == "positions" and "position" not in pair.growths
    longest = pair.grown.family.longest
    if record is not None and is_of_config and grown.get(longest) != record.get("position"):
        yield f"config[{longest!r}] is {text(grown.get(longest))}, expected {text(record.get('position'))}"


def _growing_spaces(family: Family) -> set[str]:
    """Spaces that growth makes larger, and those whose size is that of such a space or a multiple of it."""
    growing = {*family.residual, *family.units}
    for space, size in family.sizes.items():
        sources = (size.same, *(size.times or ())[1:], *(size.ratio or ()))
        if growing & {one for one in sources if one}:
            growing.add(space)
    return growing - {"head"}


def _derived_size(pair: Pair, field: str, space: str) -> int | None:
    """The size of a space by the grown config without its field."""
    grown = pair.grown
    bare = {key: value for key, value in grown.config.items() if key != field}
    return grown.architecture.with_config(bare).sizes.get(space)


@dataclass(frozen=True)
class _Eps:
    """The field of the norms' ε, and what new coordinates make of it."""

    field: str
    expected: float


def _eps(pair: Pair) -> _Eps | None:
    """The ε where new coordinates copy nothing, times the old hidden size over the new one, as the norms' sums of
    squares stay the same; None where it stays.
    """
    growth, padding = pair.growths["residual"], pair.grown.family.padding
    if padding is None or padding.eps is None or not growth.has_fresh:
        return None
    return _Eps(padding.eps, float(pair.small.config[padding.eps]) * growth.num_old / growth.num_new)


def _layer_fields(family: Family) -> set[str]:
    return {family.num_layers, *family.stacks.values()}


def _num_layers(pair: Pair) -> int:
    return len({layer.source for layer in pair.layers})


def _lists_of(pair: Pair, config: Config) -> dict[str, list[Any]]:
    """The fields with one entry for each layer, including those that only transformers derives."""
    known = {**_effective(pair.small), **config}
    numbers = pair.grown.family.layer_numbers  # not kinds
    names = {name for name, value in known.items() if isinstance(value, list | tuple) and name not in numbers}
    return {name: list(known[name]) for name in names if len(known[name]) == _num_layers(pair) and _is_of_layers(name)}


def _is_of_layers(name: str) -> bool:
    """Whether transformers names fields with one entry for each layer so; other lists may be as long by chance."""
    return "layer" in name and not name.endswith("_only_layers") and not name.startswith("mtp_")


def _layer_problems(pair: Pair, small: Config, grown: Config) -> Iterator[str]:
    family, num_new = pair.grown.family, len(pair.layers)
    if num_new == _num_layers(pair):
        return
    for field in sorted(_layer_fields(family) | {one for one in family.aliases if one in small}):
        if family.aliases.get(field, field) not in _layer_fields(family) or field not in small:
            continue
        if isinstance(small[field], list | tuple):  # one entry a layer, as below
            continue
        if grown.get(field) != num_new or isinstance(grown.get(field), bool):
            yield f"config[{field!r}] is {text(grown.get(field))}, expected {num_new}"
    for name, values in sorted(_lists_of(pair, small).items()):
        expected = [values[layer.source] for layer in pair.layers]
        if name in grown:
            found: Any = list(grown[name]) if isinstance(grown[name], tuple) else grown[name]
            yield from differences(found, expected, ("config", name))
        elif name in small:
            yield f"config[{name!r}] is missing, expected {text(expected)}"
    for name in family.layer_numbers:
        expected = _numbers_problem(pair, small.get(name), grown.get(name))
        if expected is not None:
            yield f"config[{name!r}] is {text(grown.get(name))}, expected {text(expected)}"
    if family.sparse is not None:
        yield from _sparse_problems(pair, family.sparse, small, grown)
    yield from _rule_problems(pair, small, grown)


def _rule_problems(pair: Pair, small: Config, grown: Config) -> Iterator[str]:
    """Kinds that come round must come where their sources' did, factors must follow the depth, and what lists say must
    not be said otherwise.
    """
    family, deeper = pair.grown.family, len(pair.layers) / _num_layers(pair)
    rows = (one.layers for one in family.parameters if pair.grown.architecture.holds(one.when))
    read = {layers.rpartition("every ")[2] for layers in rows}
    for period, offset in (fields for kind, fields in family.periodic.items() if kind in read):
        pairs = [(one.get(period), one.get(offset)) for one in (small, grown)]
        if any(_comes_round(pairs[1], at) != _comes_round(pairs[0], one.source) for at, one in enumerate(pair.layers)):
            yield (
                f"config[{period!r}] is {text(grown.get(period))} and config[{offset!r}] {text(grown.get(offset))}, "
                "expected those by which every layer has its source's kind"
            )
    for field, power in family.of_depth.items():
        expected, told = float(small[field]) * deeper**power, grown.get(field)
        if not isinstance(told, float) or not math.isclose(told, expected, rel_tol=ROUNDING):
            yield f"config[{field!r}] is {text(told)}, expected {expected:g}"
    yield from (
        f"config[{field!r}] is {text(grown[field])}, expected none beside the list of layers"
        for field in family.restated
        if field in grown
    )


def _comes_round(said: tuple[Any, Any], layer: int) -> bool | None:
    """Whether a layer's number, divided by the period, leaves the offset; None where a config says no such numbers."""
    period, offset = said
    if not isinstance(period, int) or not isinstance(offset, int) or isinstance(period, bool) or period < 1:
        return None
    return layer % period == offset


def _numbers_problem(pair: Pair, small: Any, grown: Any) -> Any:
    """What a list of layers' numbers must be where it is something else: those whose source the old list has."""
    expected = None if small is None else [at for at, layer in enumerate(pair.layers) if layer.source in small]
    return expected if grown != expected else None


def _sparse_problems(pair: Pair, rules: Sparse, small: Config, grown: Config) -> Iterator[str]:
    """Each layer must have experts exactly where the layer that it comes from has them."""

    def is_dense(config: Config, layer: int) -> bool:
        last = config.get(rules.last or "", -1)
        return (
            layer in (config.get(rules.dense or "") or ())
            or bool((layer + 1) % (config.get(rules.step or "") or 1))
            or layer < (config.get(rules.first or "") or 0)
            or (last is not None and 0 <= last < layer)
        )

    said = ", ".join(f"config[{field!r}] is {text(grown.get(field))}" for field in rules.rules)
    numbers: Any = grown.get(rules.dense) if rules.dense else []
    others = [grown.get(field) for field in rules.rules if field != rules.dense]
    if not isinstance(numbers, list) or not all(isinstance(one, int) for one in others):
        yield said
        return
    every = grown.get(rules.step or "", 1)
    if any(number not in range(len(pair.layers)) for number in numbers) or (rules.dense and every != 1):
        yield said
    for index, layer in enumerate(pair.layers):
        if is_dense(grown, index) != is_dense(small, layer.source):
            yield f"{said}: layer {index} has another kind than its source"


def _derived_problems(pair: Pair, changed: set[str]) -> Iterator[str]:
    """What differs between both configs as transformers completes them, layer by layer where it derives such fields."""
    small, grown = _effective(pair.small), _effective(pair.grown)
    lists = _lists_of(pair, pair.small.config)
    following = _following_sizes(pair)
    for name in sorted((small.keys() | grown.keys()) - changed - {*NEUTRAL}):
        is_derived = name not in pair.small.config and name not in pair.grown.config
        if is_derived and (small.get(name), grown.get(name)) in following:
            continue
        yield from differences(grown.get(name), small.get(name), ("config as transformers completes it", name))
    for name in sorted(lists.keys() & grown.keys()):
        expected = [lists[name][layer.source] for layer in pair.layers]
        yield from differences(list(grown[name] or ()), expected, ("config as transformers completes it", name))


def _following_sizes(pair: Pair) -> list[tuple[int, int]]:
    """Pairs of old and new sizes of the spaces: a field that transformers derives from a size changes with it."""
    old, new = (state.architecture.sizes for state in (pair.small, pair.grown))
    return [(old[space], new[space]) for space in old.keys() & new.keys()]


def _effective(state: TrainingState) -> dict[str, Any]:
    """The config as transformers completes it; empty where it refuses the config, which building the model reports."""
    from transformers import AutoConfig

    # deep: transformers writes into what is inside
    fields = deepcopy({key: value for key, value in state.config.items() if key != "model_type"})
    try:
        return AutoConfig.for_model(state.family.model_type, **fields).to_dict()
    except config_errors():
        return {}
