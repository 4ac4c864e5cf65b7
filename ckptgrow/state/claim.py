"""Assigns every tensor of a checkpoint to exactly one row of its family's table, or names it in an error.

Names may stand under any prefix (`model.`, `module.`, none), with or without the backbone's own (`transformer.`), and
inside wrappers (`_orig_mod`); a second whole set under another prefix (an exponential moving average of the weights) is
a second instance.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from ckptgrow.errors import ClaimError, ConfigError, at, listing
from ckptgrow.families.family import Family, Head
from ckptgrow.spaces.growth import identities
from ckptgrow.spaces.layout import Layout, parse
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.layer_kinds import layers_with
from ckptgrow.state.sizes import Config, holds, is_tied
from ckptgrow.state.wrappers import bare_names, with_part

Shape = tuple[int, ...]
OWN_CLASSES: Mapping[Head, tuple[str, ...]] = {  # how transformers ends the names of classes with the tables' heads
    "causal": ("LMHeadModel", "ForCausalLM"),
    "masked": ("ForMaskedLM", "ForPreTraining"),
    "seq2seq": ("ForConditionalGeneration",),
    "image": ("ForImageClassification",),
}
COUNTERS = ("n_averaged", "initted", "step")  # torch's AveragedModel counts in the first, ema-pytorch in the others


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """One tensor of a checkpoint, and what the family's table says about it."""

    name: str  # in the checkpoint
    bare: str  # the same without wrappers
    template: str  # the name with `{layer}` left open
    pattern: str  # the table's name
    layer: int | None
    prefix: str  # what stands before the table's name in the bare one
    layout: Layout
    is_buffer: bool
    inner: str  # the table's name, without the backbone's own prefix where the file lacks it
    is_trained: bool = True  # False for a parameter that optimizers leave alone
    first_name: str | None = None  # of an embedding: its tied head's, where the module has this before it

    def module_name(self, layer: int | None) -> str:
        """What the module that was saved calls it among its parameters, in a layer, behind the prefix of the file."""
        return self.state_name(layer) if self.first_name is None else self.prefix + self.first_name

    def state_name(self, layer: int | None) -> str:
        """What the module that was saved calls it in its state dict, in the same way."""
        return self.prefix + (self.inner if layer is None else self.inner.replace("{layer}", str(layer)))

    @property
    def canonical(self) -> str:
        """The name inside the module with its head."""
        return self.pattern if self.layer is None else self.pattern.replace("{layer}", str(self.layer))

    def name_in(self, layer: int) -> str:
        """The same tensor's name in another layer."""
        return self.template.replace("{layer}", str(layer))


@dataclass(frozen=True)
class Claim:
    """All tensors of a checkpoint, claimed, in its order; `tied` maps a head's name to its embedding's."""

    family: Family
    tensors: tuple[Claimed, ...]
    tied: Mapping[str, str]

    @property
    def model(self) -> tuple[Claimed, ...]:
        """The tensors of the model itself: the first instance."""
        return tuple(one for one in self.tensors if one.prefix == self.tensors[0].prefix)

    @property
    def parameters(self) -> tuple[Claimed, ...]:
        """The model's parameters, which training changes; of a tied pair only the embedding."""
        return tuple(one for one in self.model if not one.is_buffer and one.name not in self.tied)

    def in_module_order(self) -> Claim:
        """The same, its tensors in the order of the family's module: the table's, layer by layer."""
        place = _places(self.family)
        places = {one.name: place(one) for one in self.tensors}
        for head, embedding in self.tied.items():  # a tensor of two names stands where the module has the first of them
            places[embedding] = min(places[embedding], places[head])
        ordered = sorted(self.tensors, key=lambda one: (one.prefix, *places[one.name]))
        return Claim(self.family, tuple(ordered), self.tied)


def _places(family: Family) -> Callable[[Claimed], tuple[int, int, int, int]]:
    """A tensor's place among the module's parameters: its block of the table (one stack of layers is one block), its
    layer, its submodule – a bias follows its weight – and its row.
    """
    stacks = {parameter.name.partition("{layer}")[0] for parameter in family.parameters if "{layer}" in parameter.name}
    others = (other for other, _ in (*family.twins, *family.twins_if_tied))
    names = [*dict.fromkeys([*(one.name for one in family.parameters), *others]), *family.buffers, *COUNTERS]
    row = {name: index for index, name in enumerate(names)}
    first_row: dict[str, int] = {}
    for name in names:
        for key in (_block(name, stacks), name.rpartition(".")[0]):
            first_row.setdefault(key, row[name])

    def place(one: Claimed) -> tuple[int, int, int, int]:
        block, submodule = _block(one.pattern, stacks), one.pattern.rpartition(".")[0]
        return first_row[block], one.layer or 0, first_row[submodule], row[one.pattern]

    return place


def _block(pattern: str, stacks: Collection[str]) -> str:
    """The stack of layers that a tensor lies in – in one layer alone, as T5's relative positions do – or its module."""
    return next((stack for stack in stacks if pattern.startswith(stack)), pattern.rpartition(".")[0])


@dataclass(frozen=True, kw_only=True)
class _Entry:
    pattern: str
    layout: str
    is_buffer: bool
    regex: re.Pattern[str]
    layers: frozenset[int]  # the numbers that its layer may have
    base_prefix: str
    is_trained: bool


def claim(architecture: Architecture, shapes: Mapping[str, Shape]) -> Claim:
    """Claims every tensor of a checkpoint.

    Raises ClaimError for tensors that no entry claims and entries that no tensor meets, ConfigError for shapes that
    contradict the config; each names the tensor.
    """
    family, where = architecture.family, architecture.where
    for refusal in family.refusals:
        if refusal.operator == "tensors" and architecture.holds(refusal.when):
            raise ConfigError(f"{where}: {family.model_type} with {refusal.when} is not understood: {refusal.reason}")
    entries = _entries(architecture)
    found = {name: _match(name, bare, entries) for name, bare in bare_names(shapes).items()}
    instances: dict[str, list[Claimed]] = defaultdict(list)
    for one in found.values():
        if one is not None:
            instances[one.prefix].append(one)
    largest = max(instances, key=lambda prefix: len(instances[prefix]), default=None)
    if largest is None:
        raise ClaimError(f"{where}: none of its {len(shapes)} tensors belongs to {family.model_type}, expected a model")
    incomplete = {prefix: missing for prefix, ones in instances.items() if (missing := _missing(architecture, ones))}
    parts = incomplete.keys() - {largest}
    stray = [name for name, one in found.items() if one is None or (one.prefix in parts and not one.is_buffer)]
    if stray:
        raise ClaimError(
            f"{where}: the {family.model_type} table ({architecture.num_layers} layers) claims no tensor named "
            f"{listing(stray)}; correct the config, or leave them out with ⟦drop NAME⟧"
        )
    if largest in incomplete:
        raise ClaimError(f"{where}: tensor {largest}{listing(incomplete[largest])} is missing, expected by the config")
    claimed = _with_first_names(architecture, [one for one in found.values() if one is not None])
    with at(where):
        _check_once(claimed)
    _check_shapes(architecture, claimed, shapes)
    return Claim(family, claimed, _tied_heads(family, architecture.config, claimed))


def _with_first_names(architecture: Architecture, claimed: Sequence[Claimed]) -> tuple[Claimed, ...]:
    """The same; where the head is the embedding's tensor and stands before it, modules call it by the head's name."""
    tie, rows = architecture.family.tie, [one.name for one in architecture.family.parameters]
    if tie is None or not architecture.is_tied or rows.index(tie.head) > rows.index(tie.embedding):
        return tuple(claimed)
    return tuple(replace(one, first_name=tie.head) if one.pattern == tie.embedding else one for one in claimed)


def unclaimed_names(architecture: Architecture, shapes: Mapping[str, Shape]) -> list[str]:
    """The tensors that no entry of the table claims, sorted."""
    entries = _entries(architecture)
    return sorted(name for name, bare in bare_names(shapes).items() if _match(name, bare, entries) is None)


def _entries(architecture: Architecture) -> list[_Entry]:
    family = architecture.family
    existing = [one for one in family.parameters if architecture.holds(one.when)]
    parameters: list[tuple[str, str, str]] = [(one.name, one.layout, one.layers) for one in existing]
    said = {family.choice.bias: "choice"}
    buffers: list[tuple[str, str, str]] = [
        (name, said.get(name, "fixed"), "all") for name in (*family.buffers, *COUNTERS)
    ]
    layouts = {one.name: one.layout for one in existing}
    others: list[tuple[str, str, str]] = [
        (other, layouts[name], "all")
        for other, name in twins(family, architecture.config).items()
        if other not in layouts
    ]
    prefixes = tuple(other for part, other in family.spellings if part == family.base_prefix)
    return [
        _Entry(
            pattern=name,
            layout=layout,
            is_buffer=is_buffer,
            regex=name_regex(spelling, family.base_prefix, others=prefixes),
            layers=_layers_with(architecture, name, layers),
            base_prefix=family.base_prefix,
            is_trained=name not in family.untrained,
        )
        for name, layout, layers, is_buffer in [
            *((*one, False) for one in parameters + others),
            *((*one, True) for one in buffers),
        ]
        for spelling in _spellings(name, family)
    ]


def _layers_with(architecture: Architecture, name: str, layers: str) -> frozenset[int]:
    """The layers that have a parameter of the table."""
    with at(architecture.where):
        return layers_with(architecture.family, architecture.config, layers, architecture.stack_layers(name))


def _spellings(name: str, family: Family) -> list[str]:
    """The name in the module, and in files that say it otherwise."""
    several = [one for one in family.spellings if one[0] != family.base_prefix]
    return [name, *(name.replace(part, other) for part, other in several if part in name)]


def name_regex(pattern: str, base_prefix: str, *, others: tuple[str, ...] = ()) -> re.Pattern[str]:
    """What a table's name may look like in a file: under any prefix, with or without the backbone's own, which may be
    one of `others` there.
    """
    inner = pattern.removeprefix(base_prefix)
    spelt = "|".join(map(re.escape, (base_prefix, *others)))
    base = f"(?P<base>{spelt})?" if inner != pattern else "(?P<base>)"
    body = re.escape(inner)
    for number in ("layer", "expert"):
        body = body.replace(re.escape(f"{{{number}}}"), rf"(?P<{number}>0|[1-9]\d*)")
    return re.compile(rf"(?P<prefix>(?:[^.]+\.)*?){base}{body}")


def _match(name: str, bare: str, entries: Sequence[_Entry]) -> Claimed | None:
    for entry in entries:
        match = entry.regex.fullmatch(bare)
        if match is None:
            continue
        layer = match.groupdict().get("layer")
        if layer is not None and int(layer) not in entry.layers:
            continue
        return Claimed(
            name=name,
            bare=bare,
            template=name if layer is None else with_part(name, bare, match.start("layer"), "{layer}"),
            pattern=entry.pattern,
            layer=None if layer is None else int(layer),
            prefix=match["prefix"],
            layout=parse(entry.layout),
            is_buffer=entry.is_buffer,
            inner=entry.pattern if match["base"] else entry.pattern.removeprefix(entry.base_prefix),
            is_trained=entry.is_trained,
        )
    return None


def _is_of_another_task(family: Family, config: Config) -> bool:
    """Whether the config names classes, none of which has the table's head: then the backbone may stand alone."""
    classes = config.get("architectures")
    if not isinstance(classes, list) or not classes:
        return False
    return not any(str(one).endswith(OWN_CLASSES.get(family.head, ())) for one in cast(list[object], classes))


def _missing(architecture: Architecture, ones: Sequence[Claimed]) -> list[str]:
    family = architecture.family
    present = {one.canonical for one in ones}
    has_base = any(one.bare.startswith(one.prefix + family.base_prefix) for one in ones)
    may_lack = {family.tie.head} if family.tie and (architecture.is_tied or not has_base) else set[str]()
    heads = {one.name for one in family.parameters if not one.name.startswith(family.base_prefix)}
    if _is_of_another_task(family, architecture.config) and not heads & present:
        may_lack |= heads
    return [
        name
        for parameter in family.parameters
        if architecture.holds(parameter.when) and parameter.name not in may_lack
        for name in _in_layers(parameter.name, _layers_with(architecture, parameter.name, parameter.layers))
        if name not in present
    ]


def _in_layers(pattern: str, layers: Collection[int]) -> list[str]:
    if "{layer}" not in pattern:
        return [pattern]
    return [pattern.replace("{layer}", str(layer)) for layer in sorted(layers)]


def _check_once(claimed: Sequence[Claimed]) -> None:
    """Raises ClaimError where a parameter has two names in the checkpoint."""
    first: dict[tuple[str, str], str] = {}
    for one in claimed:
        other = first.setdefault((one.prefix, one.canonical), one.name)
        if other != one.name:
            raise ClaimError(
                f"{other} and {one.name} name one parameter, expected one of them; leave out the one that is "
                "not meant with ⟦drop NAME⟧"
            )


def expected_shapes(architecture: Architecture) -> dict[str, Shape]:
    """The shapes of a model's parameters by the table's names, `{layer}` left open."""
    spaces = identities(architecture.sizes)
    return {
        one.name: tuple(axis.growth(spaces).num_old for axis in parse(one.layout).axes)
        for one in architecture.family.parameters
        if architecture.holds(one.when)
    }


def _check_shapes(architecture: Architecture, claimed: Sequence[Claimed], shapes: Mapping[str, Shape]) -> None:
    spaces = identities(architecture.sizes)
    layouts = {one.layout for one in claimed if one.layout.kind != "fixed"}
    shapes_by = {layout: tuple(axis.growth(spaces).num_old for axis in layout.axes) for layout in layouts}
    for one in claimed:
        expected = shapes_by.get(one.layout, shapes[one.name])
        if shapes[one.name] != expected:
            raise ConfigError(
                f"{architecture.where}: tensor {one.name} has shape {list(shapes[one.name])}, expected "
                f"{list(expected)} ({one.layout.text}) by the config; pass the right one with ⟦config FILE⟧"
            )


def twins(family: Family, config: Config) -> dict[str, str]:
    """Which parameters of the module are one: another name, and the table's."""
    own = {one.name for one in family.parameters if one.when is not None and holds(one.when, config)}
    always = {other: name for other, name in family.twins if other not in own}  # but where it has a row of its own
    tied = {**always, **dict(family.twins_if_tied if is_tied(family, config) else ())}
    if family.tie is not None and is_tied(family, config):
        tied[family.tie.head] = family.tie.embedding
    return tied


def _tied_heads(family: Family, config: Config, claimed: Sequence[Claimed]) -> dict[str, str]:
    tied = twins(family, config)
    names = {(one.prefix, one.canonical): one.name for one in claimed}
    return {one.name: names[one.prefix, tied[one.canonical]] for one in claimed if one.canonical in tied}
