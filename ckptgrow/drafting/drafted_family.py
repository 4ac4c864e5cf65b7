"""The table that follows from measured rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from ckptgrow.drafting.drafted_rows import rows_of
from ckptgrow.drafting.layers_of_rows import number_lists, sparse_rule
from ckptgrow.drafting.measured_rows import MeasuredRows
from ckptgrow.drafting.observed_model import EXACT
from ckptgrow.drafting.tiny_config import SPACES, Tiny
from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Family, Padding, Parameter, Size, Tie

RESIDUAL = ("residual", "branch", "normed", "final")
COUNTED = ("experts", "vocab", "position")  # that no growth of the width makes more
MANY = ("heads", "groups")
DROPOUT = re.compile(r"^(?!summary|classifier).*drop")
MOST_UNUSED = 4
ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation", "activation", "mlp_hidden_act")


def family_of_rows(measured: MeasuredRows) -> Family:
    """The table; raises ConfigError where the config says nothing of the number of layers."""
    subject, model = measured.subject, measured.observed.model
    used = {space for row in measured.rows for space in row.spaces}
    residual = tuple(one for one in RESIDUAL if one in used or one == "residual")
    fields = measured.subject.own_fields
    has_several = len(set(measured.stacks.values())) > 1
    parameters = measured.observed.parameters
    return Family(
        model_type=subject.model_type,
        parameters=tuple(
            Parameter(one.template, one.layout, when=one.when, layers=one.layers) for one in measured.rows
        ),
        sizes=dict(_sizes(measured, used, residual)),
        num_layers=measured.num_layers,
        base_prefix=f"{model.base_model_prefix}." if model.base_model is not model else "",
        head=subject.head,
        tie=_tie(measured),
        buffers=tuple(_buffers(measured)),
        twins=measured.twins,
        twins_if_tied=measured.twins_if_tied,
        untrained=tuple(one.template for one in measured.rows if not parameters[one.name].requires_grad),
        dropout=tuple(name for name, value in fields.items() if isinstance(value, float) and DROPOUT.search(name)),
        activation=_activation(measured),
        padding=_padding(measured),
        unused_positions=_unused_positions(measured),
        residual=residual,
        units=tuple(one for one in measured.units if _is_many(measured, one)),
        stacks=measured.stacks if has_several else {},
        layer_lists=(*measured.lists, *number_lists(subject, measured.num_layers)),
        equal=_equal(measured),
        sparse=sparse_rule(subject),
    )


def _tie(measured: MeasuredRows) -> Tie | None:
    head, embedding = measured.ends
    if head is None or embedding is None or measured.options.tie is None:
        return None
    own = Tiny(measured.subject.model_type, measured.subject.head, {}).own_fields
    return Tie(head=head, embedding=embedding, default=bool(own.get(measured.options.tie)))


def _sizes(measured: MeasuredRows, used: Collection[str], residual: Collection[str]) -> Iterator[tuple[str, Size]]:
    parts = {space for several in measured.made.values() for space in several}
    named = {*used, *residual, *parts, *measured.lengths.derived, "heads"}
    ordered = dict.fromkeys(("vocab", "position", *residual, *measured.sizes, "routed"))
    for space in (one for one in ordered if one in named):
        field = measured.lengths.fields.get(space)
        if space == "routed":
            yield space, Size(same="experts")
        elif space in residual and space != "residual":
            yield space, Size(same="residual")
        elif space in measured.made:
            yield space, Size(sum=measured.made[space])
        elif space in measured.lengths.derived:
            yield space, Size(ratio=measured.lengths.derived[space])
        elif field is not None:
            yield space, _said(measured, space, field)


def _said(measured: MeasuredRows, space: str, field: str) -> Size:
    """A size that a field says, and what it is where the field says nothing."""
    sizes = measured.sizes
    if space == "head" and _is_without(measured, field, sizes["residual"] // sizes["heads"]):
        return Size(config=field, ratio=("residual", "heads"))
    if space == "kv_heads" and _is_without(measured, field, sizes["heads"]):
        return Size(config=field, same="heads")
    return Size(config=field)


def _equal(measured: MeasuredRows) -> dict[str, str]:
    """The number of key heads, where it changes no shape and the model runs with as many as it has heads alone."""
    subject = measured.subject
    kv_heads, heads = (subject.field_of(SPACES[space][0]) for space in ("kv_heads", "heads"))
    if kv_heads is None or heads is None or kv_heads in measured.lengths.fields.values():
        return {}
    own = subject.own_fields
    return {kv_heads: heads} if kv_heads in subject.fields and own[kv_heads] == own[heads] else {}


def _is_without(measured: MeasuredRows, field: str, size: int) -> bool:
    """Whether a config that leaves the field out has this size."""
    try:
        return measured.subject.shapes(**{field: None}) == measured.subject.shapes(**{field: size})
    except ConfigError:
        return False


def _is_many(measured: MeasuredRows, unit: str) -> bool:
    """Whether a unit is one of many that may become more, and no coordinate inside of them."""
    if unit in COUNTED or unit.endswith("experts"):  # of which buffers may say something for each
        return False
    if unit.endswith(MANY):
        return True
    if any(unit in several for several in measured.made.values()):  # coordinates of a head, some of which are rotated
        return False
    parts = [part for row in measured.rows for axis in row.axes for part in axis if unit in part]
    return all(len([one for one in part if isinstance(one, str)]) == 1 for part in parts)


def _buffers(measured: MeasuredRows) -> list[str]:
    """The names of what files keep besides parameters."""
    model = measured.observed.model
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept = {name: () for name in sorted(model.state_dict()) if name not in parameters}
    return [row.template for row in rows_of(kept, list(measured.stacks))]


def _unused_positions(measured: MeasuredRows) -> int:
    """How many of a learned table's positions no sequence reaches, as those up to RoBERTa's padding token."""
    if not any("position" in row.spaces for row in measured.rows):
        return 0
    return next((one for one in range(MOST_UNUSED) if _reaches(measured, measured.sizes["position"] - one)), 0)


def _reaches(measured: MeasuredRows, length: int) -> bool:
    try:
        with torch.no_grad():
            measured.observed.logits(measured.observed.sample(0, 1, length))
    except (IndexError, RuntimeError):
        return False
    return True


def _activation(measured: MeasuredRows) -> str | None:
    """The field of the activation, where one matrix alone writes a feed-forward unit."""
    writing = [
        (row.module, part)
        for row in measured.rows
        if row.kind in ("matrix", "experts")
        for axis, parts in enumerate(row.axes)
        if row.role(axis) == "out"
        for part in parts
        if "ffn" in part
    ]
    modules = [module for module, _ in writing]
    if not writing or len(set(modules)) < len(modules) or any(len(part) > 1 for _, part in writing):
        return None
    return next((name for name in ACTIVATIONS if name in measured.subject.own_fields), None)


def _padding(measured: MeasuredRows) -> Padding | None:
    fields = measured.subject.own_fields
    eps = next((name for name, value in fields.items() if isinstance(value, float) and "eps" in name), None)
    if not any(row.kind in ("gain", "1+gain") for row in measured.rows):
        return None
    padding = Padding("layer" if _is_blind_for_means(measured) else "rms", eps)
    return padding if eps is not None else of_shared_eps(padding)


def of_shared_eps(padding: Padding) -> Padding:
    """The same where other norms share the ε, or no field says it: the stream is written √(new/old) as large."""
    residual, tied = {"residual": 0.5}, {"residual": 0.5, "final": -0.5}
    return replace(padding, eps=None, scale=residual, scale_tied=tied)


def _is_blind_for_means(measured: MeasuredRows) -> bool:
    """Whether every norm takes away what is added to all coordinates of the residual stream alike."""
    embedding = measured.ends[1]
    if embedding is None:
        return False
    raised = measured.observed.parameters[embedding].detach() + 1.0
    return measured.observed.difference({embedding: raised}) <= EXACT
