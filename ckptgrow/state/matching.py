"""Finds to which parameter the state of each number belongs: by names, by the orders of trainers, or by shapes alone.

An optimizer has a list of groups, and each group a list of numbers; the model has its parameters in order. Without
names, an order is accepted only if no other could be meant: exactly one of the trainers' orders fits, or else there is
exactly one way to divide the model's parameters among the groups, each group in model order. Parameters may belong to
no group (frozen).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ckptgrow.errors import OptimizerError, listing
from ckptgrow.formats.bitsandbytes_records import CODE_MAPS
from ckptgrow.formats.raw_optimizers import Record
from ckptgrow.state.wrappers import bare_names
from ckptgrow.storage.tensors import is_lazy

Shape = tuple[int, ...]

# Entries of a record that have another shape than their parameter: Adafactor's factors, torch's and transformers'.
FACTORED: Mapping[str, Callable[[Shape], Shape]] = {
    "row_var": lambda shape: (*shape[:-1], 1),
    "col_var": lambda shape: (*shape[:-2], 1, *shape[-1:]),
    "second_momentum_buffer": lambda shape: (shape[0], 1),
    "exp_avg_sq_row": lambda shape: shape[:-1],
    "exp_avg_sq_col": lambda shape: (*shape[:-2], *shape[-1:]),
}
FLATTENED = ("s", "p0")  # Prodigy's, as vectors of all their parameter's numbers, or of every nth
MOST_STATES = 5_000  # of the search below; so many come up only where parameters cannot be told apart
WAY_OUT = "list the names in the optimizer's order in a file and pass ⟦param_order FILE⟧"
_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)|\.ln_")  # as transformers' Trainer


@dataclass(frozen=True)
class Slot:
    """One numbered parameter: its optimizer and group, and its record."""

    optimizer: int
    group: int
    record: Record

    def fits(self, shape: Shape) -> bool:
        """Whether the record could belong to a parameter of this shape."""
        return not misfits(self.record, shape)


def misfits(record: Record, shape: Shape) -> dict[str, Shape]:
    """The entries that cannot belong to a parameter of this shape, with the shapes that they would have."""
    expected = {
        key: _expected(key, value.shape, shape)
        for key, value in record.items()
        if is_lazy(value) and value.shape and key not in CODE_MAPS
    }
    return {key: wanted for key, wanted in expected.items() if record[key].shape != wanted}


def _expected(key: str, found: Shape, shape: Shape) -> Shape:
    """The shape that an entry of a parameter of this shape has."""
    if key in FLATTENED and len(found) == 1 and found[0] <= math.prod(shape):
        return found
    return FACTORED[key](shape) if key in FACTORED and len(shape) > 1 else shape


def by_names(
    names: Sequence[str],
    slots: Sequence[Slot],
    shapes: Mapping[str, Shape],
    in_module: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """The model's names for a list of names, which may stand under another prefix or inside wrappers, or be the
    module's own, `in_module` for those of the checkpoint.

    Raises OptimizerError for names that are unknown, that come up twice, or that are too many or too few.
    """
    resolved = _resolved(names, shapes)
    if len(resolved) < len(names):
        own = _resolved(names, in_module)
        resolved = {name: in_module[one] for name, one in own.items()} if len(own) > len(resolved) else resolved
    unknown = [name for name in names if name not in resolved]
    if unknown:
        raise OptimizerError(
            f"the model has no parameter {listing(unknown)}, expected names such as {listing(shapes, 2)}"
        )
    found = [resolved[name] for name in names]
    if len(found) != len(slots) or len(set(found)) != len(found):
        counts = f"{len(found)} names, {len(set(found))} of them different"
        raise OptimizerError(f"{counts}, expected the name of each of the {len(slots)} parameters once")
    return found


def by_order(slots: Sequence[Slot], shapes: Mapping[str, Shape]) -> list[str]:
    """The names of all optimizers' parameters, in their order.

    Raises OptimizerError where no order fits, or more than one.
    """
    fitting = {tuple(order) for order in _trainers_orders(slots, shapes) if _fits(order, slots, shapes)}
    if not fitting:
        found = _dealings(slots, shapes)
        if found is None:
            raise _ambiguous(slots, shapes)
        fitting = {tuple(order) for order in found}
    if len(fitting) == 1:
        return list(fitting.pop())
    if fitting:
        raise _ambiguous(slots, shapes)
    known = set(shapes.values())
    odd = {key for slot in slots for key in slot.record if all(key in misfits(slot.record, one) for one in known)}
    reason = f" ({listing(odd)} have no parameter's shape)" if odd else ""
    raise OptimizerError(
        f"{_counted(slots)} fit the model's {len(shapes)} parameters in no order{reason}, expected one with "
        f"equal shapes; {WAY_OUT}"
    )


def _ambiguous(slots: Sequence[Slot], shapes: Mapping[str, Shape]) -> OptimizerError:
    count = f"the model's {len(shapes)} parameters"
    return OptimizerError(f"{_counted(slots)} fit {count} in more than one order; {WAY_OUT}")


def _counted(slots: Sequence[Slot]) -> str:
    sizes = [str(size) for size in _group_sizes(slots)]
    more = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
    return f"{len(slots)} parameters in groups of {', '.join(sizes[:5])}{more}"


def _resolved(names: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Names as the expected ones are spelt: without wrappers, one prefix for all exchanged for another."""
    bare = bare_names(names)
    known = {short: name for name, short in bare_names(expected).items()}
    if not bare or not known:
        return {}
    best: dict[str, str] = {}
    for old in _prefixes(list(bare.values())):
        for new in _prefixes(list(known)):
            found = {
                name: known[new + short.removeprefix(old)]
                for name, short in bare.items()
                if new + short.removeprefix(old) in known
            }
            if len(found) > len(best):
                best = found
    return best


def _prefixes(names: Sequence[str]) -> list[str]:
    """The prefixes that all names share, the empty one first."""
    parts = names[0].split(".")[:-1]
    prefixes = [".".join(parts[:length]) + "." for length in range(1, len(parts) + 1)]
    return ["", *(prefix for prefix in prefixes if all(name.startswith(prefix) for name in names))]


def _fits(order: Sequence[str], slots: Sequence[Slot], shapes: Mapping[str, Shape]) -> bool:
    return len(order) == len(slots) and all(slot.fits(shapes[name]) for name, slot in zip(order, slots, strict=True))


def _trainers_orders(slots: Sequence[Slot], shapes: Mapping[str, Shape]) -> Iterable[list[str]]:
    """The orders that real trainers use: the model's order; or decay and no decay, by name or by dimension."""
    model_order, sizes = list(shapes), _group_sizes(slots)
    yield model_order
    kinds: tuple[Callable[[str], bool], ...] = (
        lambda name: _UNDECAYED.search(name.lower()) is not None,
        lambda name: len(shapes[name]) < 2,
    )
    for is_undecayed in kinds:
        decayed = [name for name in model_order if not is_undecayed(name)]
        others = [name for name in model_order if is_undecayed(name)]
        for first, second in ((decayed, others), (others, decayed)):
            if sizes == [len(first), len(second)]:
                yield first + second


def _group_sizes(slots: Sequence[Slot]) -> list[int]:
    sizes: dict[tuple[int, int], int] = {}
    for slot in slots:
        sizes[slot.optimizer, slot.group] = sizes.get((slot.optimizer, slot.group), 0) + 1
    return list(sizes.values())


def _dealings(slots: Sequence[Slot], shapes: Mapping[str, Shape]) -> list[list[str]] | None:
    """Up to two ways of dealing the model's parameters out to the groups, every group in model order; None where there
    are too many to follow.

    Walks the model once and keeps, for every reachable state (how many parameters each group has got), two ways there;
    then keeps those that serve every group.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for number, slot in enumerate(slots):
        groups.setdefault((slot.optimizer, slot.group), []).append(number)
    members = list(groups.values())
    num_frozen = len(shapes) - len(slots)
    if num_frozen < 0:
        return []
    ways: dict[tuple[int, ...], list[_Way]] = {(0,) * len(members): [None]}
    for position, (name, shape) in enumerate(shapes.items()):
        reached: dict[tuple[int, ...], list[_Way]] = {}
        for state, found in ways.items():
            if position - sum(state) < num_frozen:
                _extend(reached, state, found)
            for index, numbers in enumerate(members):
                if state[index] < len(numbers) and slots[numbers[state[index]]].fits(shape):
                    next_state = (*state[:index], state[index] + 1, *state[index + 1 :])
                    _extend(reached, next_state, [(way, numbers[state[index]], name) for way in found])
        ways = reached
        if len(ways) > MOST_STATES:
            return None
    complete = ways.get(tuple(len(numbers) for numbers in members), [])
    return [_order(way, len(slots)) for way in complete]


_Way = Any  # None, or (way before, number, name): a linked list, so that ways share their beginnings


def _extend(reached: dict[tuple[int, ...], list[_Way]], state: tuple[int, ...], ways: list[_Way]) -> None:
    known = reached.setdefault(state, [])
    known.extend(ways[: 2 - len(known)])


def _order(way: _Way, length: int) -> list[str]:
    names = [""] * length
    while way is not None:
        way, number, name = way
        names[number] = name
    return names
