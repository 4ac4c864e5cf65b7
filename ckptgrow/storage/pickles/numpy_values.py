"""NumPy's values as pickles describe them, understood without NumPy's own functions: numbers, and arrays by their form.

A number is Python's own kind of number, computed with as any other, and remembers how it was pickled; an array stays a
stand-in (see `opaque`), of which only the form is known.

Source: NumPy, `numpy/_core/src/multiarray` (`scalar`, `_reconstruct`) and `numpy.dtype.__reduce__`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from ckptgrow.storage.pickles.opaque import Opaque

SCALAR, ARRAY = "scalar", ("_reconstruct", "_frombuffer")
MULTIARRAY = ("numpy._core.multiarray", "numpy.core.multiarray")
NUMERIC = ("numpy._core.numeric", "numpy.core.numeric")
FORMATS = {  # of `struct`, by NumPy's kind and size in bytes
    **{f"f{size}": letter for size, letter in ((2, "e"), (4, "f"), (8, "d"))},
    **{f"i{size}": letter for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{f"u{size}": letter for size, letter in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    "b1": "?",
}


class PickledFloat(float):
    """A float that was pickled as NumPy's."""

    pickled: Opaque


class PickledInt(int):
    """An integer that was pickled as NumPy's."""

    pickled: Opaque


@dataclass(frozen=True)
class ArrayForm:
    """What is known of an array: its shape, NumPy's kind (`f`, `i`, `u`, `b`, …) and its elements' size in bytes."""

    shape: tuple[int, ...]
    kind: str
    itemsize: int

    @property
    def num_elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


def number_in(made: object) -> object:
    """A NumPy number out of its stand-in; anything else as it is."""
    if not isinstance(made, Opaque) or type(made).named not in {(module, SCALAR) for module in MULTIARRAY}:
        return made
    if len(made.args) != 2 or not isinstance(made.args[1], bytes):
        return made
    kind, order = _dtype(made.args[0])
    letter = FORMATS.get(kind)
    if letter is None or struct.calcsize("<" + letter) != len(made.args[1]):
        return made
    value = struct.unpack((">" if order == ">" else "<") + letter, made.args[1])[0]
    if isinstance(value, bool):
        return value
    number = PickledFloat(value) if isinstance(value, float) else PickledInt(value)
    number.pickled = made
    return number


def array_in(node: object) -> ArrayForm | None:
    """The form of an array, None of anything else."""
    if not isinstance(node, Opaque) or not node.is_call:
        return None
    module, name = type(node).named
    state = node.state if isinstance(node.state, tuple) else ()
    if module in MULTIARRAY and name == "_reconstruct" and len(state) == 5:
        shape, dtype = state[1], state[2]
    elif module in NUMERIC and name == "_frombuffer" and len(node.args) == 4:
        dtype, shape = node.args[1], node.args[2]
    else:
        return None
    kind, _ = _dtype(dtype)
    if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
        return None
    digits = kind[1:]
    return ArrayForm(tuple(shape), kind[:1], int(digits) if digits.isdigit() else 1)


def _dtype(node: object) -> tuple[str, str]:
    """A pickled dtype's kind with its size, as `f8`, and its order of bytes; empty for anything else."""
    if not isinstance(node, Opaque) or type(node).named != ("numpy", "dtype"):
        return "", ""
    kind = node.args[0] if node.args else ""
    state = node.state if isinstance(node.state, tuple) else ()
    order = state[1] if len(state) > 1 else "<"
    return (kind, str(order)) if isinstance(kind, str) else ("", "")
