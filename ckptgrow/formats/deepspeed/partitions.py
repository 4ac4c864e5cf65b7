"""How ZeRO deals the elements of a group's tensors out to processes.

Stages 1 and 2 lay a group's tensors one behind the other, pad the end, and cut the whole into equal parts. Stage 3
cuts every tensor by itself, so that each process has a piece of each; groups are cut into sub-groups of bounded size.

Source: DeepSpeed 0.19.8, `runtime/zero/stage_1_and_2.py` (`flatten_dense_tensors_aligned`, `_round_robin_reorder`),
`runtime/zero/stage3.py` (`_create_fp16_sub_groups`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

ALIGNMENT = 2  # elements by which a process's part of stages 1 and 2 is divisible (`nccl_start_alignment_factor`)
Sizes = Mapping[str, int]  # elements of each tensor, in the order of the group


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + length) of a tensor; of none, where the part is padded."""

    name: str | None
    start: int
    length: int


Part = tuple[Fragment, ...]  # what one process has, one piece behind the other


def cut_as_one(sizes: Sizes, count: int) -> list[Part]:
    """Stages 1 and 2: the parts of `count` processes.

    >>> cut_as_one({"a": 5, "b": 3}, 2)[1]
    (Fragment(name='a', start=4, length=1), Fragment(name='b', start=0, length=3))
    """
    total = sum(sizes.values())
    length = -(-total // (ALIGNMENT * count)) * ALIGNMENT
    starts = [0]
    for size in sizes.values():
        starts.append(starts[-1] + size)
    return [_between(sizes, starts, rank * length, (rank + 1) * length) for rank in range(count)]


def _between(sizes: Sizes, starts: Sequence[int], first: int, last: int) -> Part:
    pieces = [
        Fragment(name, max(first, start) - start, min(last, stop) - max(first, start))
        for name, (start, stop) in zip(sizes, pairwise(starts), strict=True)
        if start < last and stop > first
    ]
    padding = last - max(first, starts[-1])
    return (*pieces, *([Fragment(None, 0, padding)] if padding > 0 else []))


def cut_each(sizes: Sizes, count: int) -> list[Part]:
    """Stage 3: the parts of `count` processes.

    >>> cut_each({"a": 5}, 2)[1]
    (Fragment(name='a', start=3, length=2), Fragment(name=None, start=0, length=1))
    """
    return [tuple(piece for name in sizes for piece in _share(name, sizes[name], rank, count)) for rank in range(count)]


def _share(name: str, size: int, rank: int, count: int) -> list[Fragment]:
    length = -(-size // count)
    start = min(rank * length, size)
    stop = min(start + length, size)
    found = [Fragment(name, start, stop - start), Fragment(None, 0, length - (stop - start))]
    return [piece for piece in found if piece.length]


def sub_groups(sizes: Sizes, count: int, most: int) -> list[Sizes]:
    """Stage 3: a group's tensors in runs that end when a process has `most` elements of them, or more."""
    shares = {name: -(-size // count) for name, size in sizes.items()}
    if most >= sum(shares.values()):
        return [sizes]
    found: list[dict[str, int]] = [{}]
    held = 0
    for name, size in sizes.items():
        found[-1][name] = size
        held += shares[name]
        if held >= most:
            found.append({})
            held = 0
    return [one for one in found if one]


def by_turns(names: Sequence[str], count: int) -> list[str]:
    """The order of names in a group with `round_robin_gradients`: each process's share, dealt by turns.

    >>> by_turns(["a", "b", "c"], 2)
    ['a', 'c', 'b']
    """
    return [name for rank in range(count) for name in names[rank::count]]


def in_order(names: Sequence[str], count: int) -> list[str]:
    """The reverse of `by_turns`."""
    places = by_turns([str(index) for index in range(len(names))], count)
    return [name for _, name in sorted(zip(map(int, places), names, strict=True))]
