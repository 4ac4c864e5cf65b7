"""Which parameters the grown optimizers hold: each that they must, in the right group, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptgrow.errors import listing
from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.verification.history import Declared
from ckptgrow.verification.optimizers import step_rule
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences, same_value


def coverage_problems(pair: Pair, declared: Declared) -> list[str]:
    """What is wrong with optimizers, their groups, the parameters in these and their records, in sentences."""
    small, grown = pair.small.optimizers, pair.grown.optimizers
    if len(small) != len(grown):
        return [f"{len(grown)} optimizers, expected {len(small)}"]
    problems: list[str] = []
    for index, (old, new) in enumerate(zip(small, grown, strict=True)):
        where = f"optimizer {index}"
        problems += _parameter_problems(pair, old, new, where)
        problems += _group_problems(pair, old, new, where)
        problems += _naming_problems(pair, declared, old, new, where)
        problems += differences(dict(new.other), dict(old.other), (where,))
    return problems


def origins(pair: Pair, small: OptimizerState, grown: OptimizerState) -> list[int]:
    """For each grown group the index of the small group that its parameters come from; an empty group keeps its own."""
    place = {name: index for index, group in enumerate(small.groups) for name in group.names}
    return [
        next((place[source] for name in group.names if (source := _source(pair, name)) in place), index)
        for index, group in enumerate(grown.groups)
    ]


def _source(pair: Pair, name: str) -> str | None:
    link = pair.links.get(name)
    return None if link is None else link.small.name


def _parameter_problems(pair: Pair, small: OptimizerState, grown: OptimizerState, where: str) -> Iterator[str]:
    expected = {name for name, link in pair.links.items() if link.small.name in set(small.names)}
    recorded = {name for name in expected if _has_record(pair, small, name)}
    for what, must, have in (("holds", expected, set(grown.names)), ("has a record of", recorded, set(grown.state))):
        if must - have:
            yield f"{where} {what} no {listing(must - have)}, expected as in the small checkpoint"
        if have - must:
            yield f"{where} {what} {listing(have - must)}, expected not, as in the small checkpoint"


def _has_record(pair: Pair, small: OptimizerState, name: str) -> bool:
    """Whether a grown parameter must have a record; some optimizers begin without one."""
    link = pair.links[name]
    record = small.state.get(link.small.name)
    if record is None or not link.has_no_moments:
        return record is not None
    rule = step_rule(small.group_of[link.small.name].options, record)
    return rule is None or not rule.begins_without


def _group_problems(pair: Pair, small: OptimizerState, grown: OptimizerState, where: str) -> Iterator[str]:
    place = {name: index for index, group in enumerate(small.groups) for name in group.names}
    sources = origins(pair, small, grown)
    for index, group in enumerate(grown.groups):
        strays = [name for name in group.names if place.get(_source(pair, name) or "") != sources[index]]
        if strays:
            yield f"{where}: group {index} holds {listing(strays)}, expected in other groups as in the small checkpoint"
    if sources != sorted(sources):
        yield f"{where}: its groups come from groups {sources}, expected these in order"
    lost = [index for index, group in enumerate(small.groups) if group.names and index not in sources]
    if lost:
        yield f"{where}: no group comes from group {listing(map(str, lost))} of the small checkpoint"
    yield from _order_problems(pair, small, grown, where)


def _naming_problems(
    pair: Pair, declared: Declared, small: OptimizerState, grown: OptimizerState, where: str
) -> Iterator[str]:
    """Groups must name their parameters where the small ones did, or where a rule for learning rates split groups, or
    where new parameters begin without a record.
    """
    by_rule = any(record.get("lr_rule") == "mup" for record in declared.records) or any(
        link.small.name in small.state and not _has_record(pair, small, name) for name, link in pair.links.items()
    )
    for index, (group, source) in enumerate(zip(grown.groups, origins(pair, small, grown), strict=True)):
        expected = by_rule or (source < len(small.groups) and small.groups[source].has_param_names)
        if group.has_param_names != expected:
            found, wanted = ("names", "none") if group.has_param_names else ("no names", "them")
            yield f"{where}: group {index} has {found} of its parameters (param_names), expected {wanted}"


def _order_problems(pair: Pair, small: OptimizerState, grown: OptimizerState, where: str) -> Iterator[str]:
    """Old parameters must keep their order where groups have no names, because scripts then count them."""
    place = {name: index for index, name in enumerate(small.names)}
    for index, group in enumerate(grown.groups):
        old = [place[pair.links[name].small.name] for name in group.names if _is_old(pair, name, place)]
        if not group.has_param_names and not same_value(old, sorted(old)):
            yield f"{where}: group {index} has its parameters in another order than the small checkpoint"


def _is_old(pair: Pair, name: str, place: Mapping[str, int]) -> bool:
    link = pair.links.get(name)
    if link is None or link.small.name not in place:
        return False
    return link.grown.layer is None or pair.layers[link.grown.layer].kind == "old"
