"""Heads for tasks: what classes for classification, question answering or values have beside a family's backbone.

A model with such a head is a family of its own, made of the family's table: its backbone, and the rows of the head.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from typing import Protocol, cast

from ckptgrow.families.family import Family, InPieces, Parameter, Refusal, Size, TaskHead
from ckptgrow.families.registry import FAMILIES, family_of
from ckptgrow.spaces.layout import parse
from ckptgrow.state.wrappers import bare_names

OF_HEADS = ("tie_word_embeddings", "scale_decoder_outputs")  # config fields that say something of own heads alone
POOLED = "pooled"  # the space of what a pooler makes of one token
NEW_SIZES = {"labels": Size(config="id2label"), POOLED: Size(same="residual")}


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def family_of_model(config: Mapping[str, object], tensors: Mapping[str, _Shaped]) -> Family:
    """The table for a config's `model_type`, with the head of the task whose rows are among a model's tensors.

    Where two tasks have rows of the same names, the classes that the config names decide, then their sizes. Raises
    ConfigError where there is no table.
    """
    family = family_of(config)
    if not family.tasks:
        return family
    shapes = {end: tensors[name].shape for name, bare in bare_names(tensors).items() for end in _ends(bare)}
    of_tasks = {one.name for task in family.tasks for one in task.parameters}
    has_own_head = any(one.name in shapes for one in head_rows(family) if one.name not in of_tasks)
    fitting = [
        (len(task.parameters), _is_named(task, config), _fits(task, config, shapes), -index)
        for index, task in enumerate(family.tasks)
        if _is_there(task, shapes) and task.keeps_head >= has_own_head
    ]
    return task_family(family.model_type, -max(fitting)[3]) if fitting else family


def _ends(name: str) -> list[str]:
    """A name, and what is left of it behind each of its prefixes."""
    parts = name.split(".")
    return [".".join(parts[begin:]) for begin in range(len(parts))]


def _is_there(task: TaskHead, names: Collection[str]) -> bool:
    """Whether names have a task's rows: all of them, but for those that hang on the config, and one at least."""
    lacking = [one for one in task.parameters if one.name not in names]
    return len(lacking) < len(task.parameters) and all(one.when is not None for one in lacking)


def _fits(task: TaskHead, config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the head has as many outputs as its rows and the config say."""
    labels = config.get("id2label")
    numbers = {"labels": len(cast(Mapping[object, object], labels))} if isinstance(labels, Mapping) else {}
    rows = [one for one in task.parameters if one.name in shapes]
    outputs = {one.name: parse(one.layout).axes[0].parts[0][0] for one in rows}
    expected = {name: one if isinstance(one, int) else numbers.get(one) for name, one in outputs.items()}
    return all(size is None or shapes[name][0] == size for name, size in expected.items())


def _is_named(task: TaskHead, config: Mapping[str, object]) -> bool:
    classes = config.get("architectures")
    named = cast(list[object], classes) if isinstance(classes, list) else []
    return any(str(one).endswith(task.classes) for one in named)


def head_rows(family: Family) -> tuple[Parameter, ...]:
    """The rows of the table's own head."""
    tied = set[str]() if family.tie is None else {family.tie.head}
    has_prefix = any(one.name.startswith(family.base_prefix) for one in family.parameters)
    return tuple(
        one
        for one in family.parameters
        if one.name in tied or (has_prefix and not one.name.startswith(family.base_prefix))
    )


@cache
def task_family(model_type: str, index: int) -> Family:
    """A family with the head of one of its tasks, by its number in the table; the same object each time."""
    return _with_task(FAMILIES[model_type], FAMILIES[model_type].tasks[index])


def _with_task(family: Family, task: TaskHead) -> Family:
    base = family.base_prefix if task.base_prefix is None else task.base_prefix
    part = task.part or ("",)
    parameters = _parameters(family, task, base)
    kept = {space for one in parameters for space in parse(one.layout).spaces}
    is_pooled = POOLED in kept
    return replace(
        family,
        parameters=parameters,
        base_prefix=base,
        head=task.head,
        sizes={**family.sizes, **{name: size for name, size in NEW_SIZES.items() if name in kept}},
        residual=(*family.residual, POOLED) if is_pooled else family.residual,
        tie=family.tie if task.keeps_head else None,
        twins=tuple((_renamed(one, family, task), _renamed(other, family, task)) for one, other in family.twins),
        twins_if_tied=family.twins_if_tied if task.keeps_head else (),
        pieces=tuple(_renamed_pieces(one, family, task) for one in family.pieces),
        buffers=tuple(_renamed(one, family, task) for one in family.buffers),
        choice=replace(family.choice, bias=family.choice.bias and _renamed(family.choice.bias, family, task)),
        stacks={_renamed(name, family, task): field for name, field in family.stacks.items() if name.startswith(part)},
        shrunken={name: power for name, power in family.shrunken.items() if name in kept},
        made={name: source for name, source in family.made.items() if name in kept},
        padding=task.padding or family.padding,
        refusals=family.refusals if task.keeps_head else tuple(one for one in family.refusals if not _is_of_head(one)),
    )


def _parameters(family: Family, task: TaskHead, base: str) -> tuple[Parameter, ...]:
    """The backbone's rows, a pooler's behind them, and those of the head, which come first where the table's own do."""
    own, part = head_rows(family), task.part or ("",)
    rows = [one for one in family.parameters if one not in own and one.name.startswith(part)]
    backbone = [replace(one, name=_renamed(one.name, family, task)) for one in rows]
    pooler = [one for one in task.parameters if one.name.startswith(base)]
    head = [one for one in task.parameters if one not in pooler]
    heads = (*(own if task.keeps_head else ()), *head)
    is_head_first = own[:1] == family.parameters[:1]
    return (*heads, *backbone, *pooler) if is_head_first else (*backbone, *pooler, *heads)


def _renamed(name: str, family: Family, task: TaskHead) -> str:
    """A name of the backbone as the task's class has it."""
    return name if task.base_prefix is None else task.base_prefix + name.removeprefix(family.base_prefix)


def _renamed_pieces(row: InPieces, family: Family, task: TaskHead) -> InPieces:
    parts = tuple(replace(part, name=_renamed(part.name, family, task)) for part in row.parts)
    return InPieces(_renamed(row.name, family, task), parts)


def _is_of_head(refusal: Refusal) -> bool:
    """Whether something is refused because of the table's own head."""
    return any(field in (refusal.when or "") for field in OF_HEADS)
