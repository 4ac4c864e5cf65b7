"""Compares two trees of plain values and lazy tensors leaf by leaf: what is missing, additional or changed."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard, cast

import torch

from ckptgrow.storage.pickles.opaque import Opaque
from ckptgrow.storage.tensors import LazyTensor, chunks, is_lazy
from ckptgrow.storage.tree import path_text

Keys = tuple[object, ...]
LONGEST = 60  # characters of a value in a message


def differences(found: Any, expected: Any, at: Keys, tolerance: float = 0.0) -> Iterator[str]:
    """Every leaf of `found` that is not as in `expected`, as sentences `where is X, expected Y`; `at` is the place.

    Floating-point numbers may differ by `tolerance`, relatively; tensors must be equal to the bit, in dtype and shape.
    Types are compared too, because 1, 1.0 and True are different settings.
    """
    yield from _differences(found, expected, at, tolerance, set())


def _differences(found: Any, expected: Any, at: Keys, tolerance: float, seen: set[tuple[int, int]]) -> Iterator[str]:
    if is_lazy(found) or is_lazy(expected):
        if not (is_lazy(found) and is_lazy(expected)):
            yield _line(at, found, expected)
        elif not same_tensor(found, expected):
            yield f"{path_text(at)} is another tensor than the small checkpoint's"
        return
    if _kind(found) != _kind(expected):
        yield _line(at, found, expected)
        return
    if isinstance(found, dict | list | tuple | Namespace | Opaque):
        if (id(found), id(expected)) in seen:  # objects may refer to each other in circles
            return
        seen.add((id(found), id(expected)))
    yield from _of_kind(found, expected, at, tolerance, seen)


def _of_kind(found: Any, expected: Any, at: Keys, tolerance: float, seen: set[tuple[int, int]]) -> Iterator[str]:
    if isinstance(found, Opaque):
        parts = (("arguments", "args"), ("state", "state"), ("items", "listed"), ("entries", "entries"))
        for name, part in parts:
            yield from _differences(getattr(found, part), getattr(expected, part), (*at, name), tolerance, seen)
    elif isinstance(found, Namespace):
        yield from _of_dicts(vars(found), vars(expected), at, tolerance, seen)
    elif isinstance(found, dict):
        yield from _of_dicts(cast(dict[Any, Any], found), expected, at, tolerance, seen)
    elif isinstance(found, list | tuple):
        entries = cast(list[Any], found)
        if len(entries) != len(expected):
            yield f"{path_text(at)} has {len(entries)} entries, expected {len(expected)}"
        for index, (one, other) in enumerate(zip(entries, expected, strict=False)):
            yield from _differences(one, other, (*at, index), tolerance, seen)
    elif not same_value(found, expected, tolerance):
        yield _line(at, found, expected)


def _of_dicts(
    found: Mapping[Any, Any], expected: Mapping[Any, Any], at: Keys, tolerance: float, seen: set[tuple[int, int]]
) -> Iterator[str]:
    for key in expected:
        if key not in found:
            yield f"{path_text((*at, key))} is missing, expected {text(expected[key])}"
        else:
            yield from _differences(found[key], expected[key], (*at, key), tolerance, seen)
    for key in found:
        if key not in expected:
            yield f"{path_text((*at, key))} is {text(found[key])}, expected none"


def same_value(found: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether two leaves are equal; NaN equals NaN."""
    if isinstance(found, float) and isinstance(expected, float):
        if math.isnan(found) or math.isnan(expected):
            return math.isnan(found) and math.isnan(expected)
        return found == expected or (tolerance > 0 and math.isclose(found, expected, rel_tol=tolerance))
    if _is_stand_in(found) and _is_stand_in(expected):
        return found.named == expected.named
    return bool(found == expected)


def _is_stand_in(value: Any) -> TypeGuard[type[Opaque]]:
    """Whether a value is a class of another package, for which each file has a class of its own here."""
    return isinstance(value, type) and issubclass(value, Opaque)


def same_tensor(found: LazyTensor, expected: LazyTensor) -> bool:
    """Whether two tensors are equal, NaN counting as equal to NaN; a few megabytes are in memory at a time."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    parts = ((found.rows(start, stop), expected.rows(start, stop)) for start, stop in chunks(found))
    return all(_same_rows(one, other) for one, other in parts)


def text(value: Any) -> str:
    """A value as a message shows it, cut after `LONGEST` characters."""
    if is_lazy(value):
        return f"a tensor of shape {list(value.shape)}"
    shown = repr(value)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def _same_rows(one: torch.Tensor, other: torch.Tensor) -> bool:
    if torch.equal(one, other):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _kind(value: Any) -> object:
    """What must be the same for two values to be compared: dicts of any class are of one kind, as are lists.

    Objects of the user's classes are of one kind if their classes have the same name.
    """
    if isinstance(value, Opaque):
        return type(value).named
    for kind in (dict, list, tuple, Namespace):
        if isinstance(value, kind):
            return kind
    return type(value)


def _line(at: Keys, found: Any, expected: Any) -> str:
    return f"{path_text(at)} is {text(found)}, expected {text(expected)}"


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
