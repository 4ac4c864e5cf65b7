"""An optimizer of transformers' parameters in the groups that another trainer makes when it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptgrow.dialects.dialect import Home
from ckptgrow.errors import listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.megatron_optimizers import group_options, is_matrix
from ckptgrow.formats.raw_optimizers import RawGroup, RawOptimizer, Record
from ckptgrow.state.terms import Terms
from ckptgrow.state.translated_optimizers import to_theirs
from ckptgrow.storage.tensors import LazyTensor


def in_trainers_groups(
    checkpoint: Checkpoint, terms: Terms, home: Home, own: Mapping[str, LazyTensor]
) -> tuple[tuple[RawOptimizer, ...], list[str]]:
    """The optimizer in the trainer's groups, and what is left out, all of it where there is no such grouping; `own` are
    the trainer's tensors.
    """
    if not checkpoint.optimizers:
        return (), []
    (raw,) = to_theirs(checkpoint.optimizers[:1], terms.optimizer, terms.absent, ("name",))
    left_out = [f"optimizer {index}" for index in range(1, len(checkpoint.optimizers))]
    options_of = {str(key): group.options for group in raw.groups for key in group.keys}
    missing = [name for entries in terms.optimizer for name in entries.theirs if name not in options_of]
    if missing:
        return (), [*left_out, f"optimizer 0 (has no part for {listing(missing)})"]
    if home.groups == "names":
        return (raw,), left_out
    wanted = _dealt([name for name in own if name in options_of], own, home)
    if any(options_of[name] != options_of[names[0]] for names in wanted for name in names):
        return (), [*left_out, "optimizer (its groups are others than the trainer's)"]
    if home.groups == "decayed, vectors":
        return (_decayed(raw, wanted, options_of),), [*left_out, *_lost_decay(wanted, options_of)]
    numbers = {name: number for number, name in enumerate(name for names in wanted for name in names)}
    groups = tuple(
        RawGroup(options_of[names[0]] if names else {}, tuple(numbers[name] for name in names)) for names in wanted
    )
    records: dict[int | str, Record] = {numbers[str(key)]: record for key, record in raw.records.items()}
    return (RawOptimizer(groups, records, raw.other, raw.kept_as),), left_out


def _dealt(order: Sequence[str], own: Mapping[str, LazyTensor], home: Home) -> list[list[str]]:
    """The parameters' names by the trainer's groups."""
    if home.groups == "one":
        return [list(order)]
    return [[name for name in order if is_matrix(name, own) == wanted] for wanted in (True, False)]


def _decayed(
    raw: RawOptimizer, wanted: Sequence[Sequence[str]], options_of: Mapping[str, Mapping[str, Any]]
) -> RawOptimizer:
    """Megatron's two groups, by name."""
    groups = tuple(
        RawGroup(group_options(options_of[names[0]], has_decay=has_decay), tuple(names), tuple(names))
        for names, has_decay in zip(wanted, (True, False), strict=True)
        if names
    )
    return RawOptimizer(groups, raw.records, raw.other, "flat")


def _lost_decay(wanted: Sequence[Sequence[str]], options_of: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The weight decay of vectors, which Megatron gives none."""
    decay = options_of[wanted[1][0]].get("weight_decay") if wanted[1] else None
    return [f"weight decay {decay} of vectors"] if decay else []
