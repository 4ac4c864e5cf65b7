"""Judges a family's table by what is measured on a tiny model of its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ckptgrow.drafting.data_flow import misread, unsilenced, unwritten
from ckptgrow.drafting.observed_model import EXACT
from ckptgrow.drafting.relabelling import Orders
from ckptgrow.drafting.roles import TOKENS, axis_ranks, vector_kind
from ckptgrow.drafting.tabled_model import Tabled, bias_of, occurrences, orders_for, relabelled_state
from ckptgrow.errors import listing

NOT_UNITS = ("vocab",)  # told by their numbers, so that relabelling changes what is asked
SEEN = 1e-7  # of the largest logit: more than rounding


def disagreements(subject: Tabled) -> Iterator[str]:
    """In one line each, what the table says and what was measured instead.

    Raises ClaimError or ConfigError where the table's rows are not the model's parameters, or its sizes not theirs.
    """
    yield from _of_roles(subject)
    yield from _of_vectors(subject)
    yield from _of_units(subject)
    yield from misread(subject)
    yield from unsilenced(subject)
    yield from unwritten(subject)


def _of_roles(subject: Tabled) -> Iterator[str]:
    if subject.observed.image is not None:  # of which no sample has as few parts as tokens that a gradient could span
        return
    for name, found in axis_ranks(subject.observed).items():
        said = [position for position, axis in enumerate(subject.rows[name].layout.axes) if axis.role == "in"]
        is_told = found.read is not None and found.lengths[found.read] > TOKENS
        if is_told and found.read not in said and subject.rows[name].layout.kind == "matrix":
            yield f"{name}: {subject.rows[name].layout.text!r} writes axis {found.read}, measured: it is read"


def _of_vectors(subject: Tabled) -> Iterator[str]:
    for name, row in subject.rows.items():
        if len(row.layout.axes) == 1 and row.layer in (None, 0):
            kind = vector_kind(subject.observed, name, bias_of(name, subject.rows))
            said = row.layout.text.split()[0] if row.layout.kind == "gain" else "bias"
            if kind != said:
                yield f"{name}: {row.layout.text!r}, measured: {kind}"


def _of_units(subject: Tabled) -> Iterator[str]:
    refused = {one.operator for one in subject.family.refusals if subject.architecture.holds(one.when)}
    claimed = {*subject.family.residual, *subject.family.units} - refused
    sizes = subject.architecture.sizes
    for root, spaces in subject.roots.items():
        if sizes[root] < 2 or root in NOT_UNITS:
            continue
        orders = orders_for(subject, root)
        if not any((order != np.arange(len(order))).any() for order in orders.values()):
            continue
        places = occurrences(subject, orders)
        if not places:
            continue
        changed = subject.observed.difference(relabelled_state(subject, orders))
        if claimed & set(spaces) and root not in refused and changed > EXACT:
            rows = listing({pattern for pattern, _ in places})
            yield f"{root}: the logits see its units change places ({changed:.0e} of the largest), by {rows}"
        if changed <= EXACT:
            yield from _unneeded(subject, root, orders, places)


def _unneeded(subject: Tabled, root: str, orders: Orders, places: Sequence[tuple[str, int]]) -> Iterator[str]:
    unseen = {subject.rows[name].pattern for name in subject.unseen}
    for place in places:
        pattern, axis = place
        if pattern in unseen:
            continue
        changed = subject.observed.difference(relabelled_state(subject, orders, place))
        if changed <= SEEN:
            yield f"{pattern}: axis {axis} is said to follow {root}, measured: the function does not see that it does"


def unclaimed_units(subject: Tabled) -> Iterator[str]:
    """Spaces whose units can change places, of which the table says that they never grow."""
    claimed = {*subject.family.residual, *subject.family.units, *NOT_UNITS}
    for root, spaces in subject.roots.items():
        if claimed & set(spaces) or subject.architecture.sizes[root] < 2:
            continue
        orders = orders_for(subject, root)
        if occurrences(subject, orders) and subject.observed.difference(relabelled_state(subject, orders)) <= EXACT:
            yield root
