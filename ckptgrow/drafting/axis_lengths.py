"""What the length of every axis is made of, measured: the shapes of models whose configs differ in one field or two.

A length is a sum of products of fields, with whole numbers: 3 · heads · head, heads · head + 2 · kv_heads · head. It is
found by trying sums of few products against all shapes, so that fields which happen to be equal are told apart.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptgrow.drafting.tiny_config import NOT_SIZES, SPACES, Shapes, Tiny
from ckptgrow.errors import ConfigError

MOST_PRODUCTS = 3
MOST_FACTORS = 3
Product = tuple[str, ...]  # spaces, in no order
Sum = tuple[tuple[int, Product], ...]  # products with how often they are there


@dataclass(frozen=True)
class Point:
    """One config's sizes by space, the shapes of its model, and which spaces' fields are not as in the first one."""

    sizes: Mapping[str, int]
    shapes: Shapes
    changed: frozenset[str]


@dataclass(frozen=True)
class Lengths:
    """What every axis of every parameter is made of, by its name; None where no sum was found.

    `fields`: the config field of each space; `derived`: spaces that follow from others where no field says them.
    """

    axes: Mapping[str, tuple[Sum | None, ...]]
    fields: Mapping[str, str]
    derived: Mapping[str, tuple[str, str]]


def lengths_of(subject: Tiny) -> Lengths:
    """Measures all axes of a tiny model's parameters."""
    own = subject.shapes()
    fields = _size_fields(subject, own)
    if "heads" not in fields and (heads := subject.field_of(SPACES["heads"][0])) is not None:
        fields["heads"] = heads
    derived = {} if "head" in fields or "heads" not in fields else {"head": ("residual", "heads")}
    points = list(_points(subject, fields, derived))
    found = {
        name: tuple(_sum_of(_seen(points, name, axis), derived) for axis in range(len(shape)))
        for name, shape in own.items()
    }
    return Lengths(found, fields, derived)


def _size_fields(subject: Tiny, own: Shapes) -> dict[str, str]:
    """The config fields that change shapes where they are larger, each under the name of its space."""
    usual = {field: space for space, (names, _) in SPACES.items() if (field := subject.field_of(names)) is not None}
    found: dict[str, str] = {}
    for field, value in subject.own_fields.items():
        if NOT_SIZES.search(field) or type(value) is not int or value < 1:
            continue
        for larger in (2 * value, 3 * value, value + 1, max(value // 2, 1)):
            try:
                shapes = subject.shapes(**{field: larger})
            except ConfigError:
                continue
            if any(shapes[name] != own[name] for name in shapes.keys() & own.keys()):
                found[usual.get(field) or _space_named(field, found)] = field
            break
    return found


def _space_named(field: str, taken: Iterable[str]) -> str:
    if re.search(r"experts$", field) and "shared" not in field and "experts" not in taken:
        return "experts"
    return re.sub(r"\W", "_", field)


def _points(subject: Tiny, fields: Mapping[str, str], derived: Mapping[str, tuple[str, str]]) -> Iterator[Point]:
    """The model as it is, and with every field, and every two, changed."""
    values = {space: subject.own_fields[field] for space, field in fields.items()}
    changes: list[dict[str, int]] = [{}]
    for space, value in values.items():
        changes += [{space: 2 * value}, {space: 3 * value}, {space: value + 1}, {space: max(value // 2, 1)}]
    for one, other in itertools.combinations(values, 2):
        changes += [{one: 2 * values[one], other: 2 * values[other]}, {one: 2 * values[one], other: 3 * values[other]}]
    for change in changes:
        sizes = {**values, **change}
        try:
            shapes = subject.shapes(**{fields[space]: size for space, size in change.items()})
        except ConfigError:
            continue
        if all(sizes[whole] % sizes[part] == 0 for whole, part in derived.values()):
            yield Point({**sizes, **_derived(sizes, derived)}, shapes, frozenset(change))


def _derived(sizes: Mapping[str, int], derived: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    return {space: sizes[whole] // sizes[part] for space, (whole, part) in derived.items()}


Seen = Sequence[tuple[Point, int]]  # with the length of an axis there


def _seen(points: Sequence[Point], name: str, axis: int) -> Seen:
    return [(one, one.shapes[name][axis]) for one in points if name in one.shapes and axis < len(one.shapes[name])]


def _sum_of(seen: Seen, derived: Mapping[str, tuple[str, str]]) -> Sum | None:
    """The shortest sum of products that is the length everywhere."""
    length = seen[0][1]
    if all(one == length for _, one in seen):
        return ((length, ()),)
    concerned = {space for point, one in seen if one != length and len(point.changed) == 1 for space in point.changed}
    concerned |= {space for space, others in derived.items() if concerned & set(others)}
    ordered = [space for space in seen[0][0].sizes if space in concerned]
    products = [
        product
        for size in range(min(len(ordered), MOST_FACTORS) + 1)
        for product in itertools.combinations(ordered, size)
        if not {"head", "heads"} <= set(product) or "head" not in derived
    ]
    values = {
        one: np.array([math.prod(point.sizes[space] for space in one) for point, _ in seen], float) for one in products
    }
    wanted = np.array([one for _, one in seen], float)
    for num in range(1, MOST_PRODUCTS + 1):
        for chosen in itertools.combinations(products, num):
            found = _whole_numbers(np.stack([values[one] for one in chosen], 1), wanted)
            if found is not None:
                return tuple(zip(found, chosen, strict=True))
    return None


def _whole_numbers(columns: np.ndarray, wanted: np.ndarray) -> tuple[int, ...] | None:
    found = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    numbers = found.round()
    if (numbers < 1).any() or np.abs(columns @ numbers - wanted).max() > 1e-6:
        return None
    return tuple(int(one) for one in numbers)
