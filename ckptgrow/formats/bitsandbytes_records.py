"""bitsandbytes' records in torch's words, and back: averages in 32 bits, and in 8 (`storage.code_blocks`).

    state1, state2        the averages, or their codes
    qmap1, qmap2          the maps of codes, which the records keep here under their own names
    absmax1, absmax2      the scales of blocks

Newer versions wrap these in one entry. What `state1` of an optimizer with one average is, its group's options tell:
Lion and SGD have an ε of 0, and SGD no second β; Adagrad has none at all.

Source: bitsandbytes 0.50, `optim/optimizer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from ckptgrow.storage.code_blocks import NUM_CODES, CodeMap, InBlocks, in_blocks
from ckptgrow.storage.tensors import LazyTensor, is_lazy, num_elements
from ckptgrow.storage.tree import Tree

BITSANDBYTES = "__bnb_optimizer_quant_state__"  # around the tensors of a record, so that FSDP takes them as they are
CODE_MAPS = ("qmap1", "qmap2")
BLOCKS: tuple[int, ...] = (256, 2048)  # values in a block, since 0.45 and before
WORDS: Mapping[str, str] = {
    **{"exp_avg": "state1", "momentum_buffer": "state1", "square_avg": "state1", "sum": "state1"},
    "exp_avg_sq": "state2",
}
Record = Mapping[str, Any]
Wrapping = Literal["bitsandbytes", "bitsandbytes, bare"]


def wrapping_of(records: Mapping[Any, Record]) -> Wrapping | None:
    """How bitsandbytes wrote these records; None where it did not, or in a way that is not known."""
    found: set[Wrapping] = {wrapping for record in records.values() if (wrapping := _wrapping(record)) is not None}
    is_known = all(map(_is_known, map(_inner, records.values()))) and bool(_common_blocks(records))
    return found.pop() if is_known and len(found) == 1 else None


def _wrapping(record: Record) -> Wrapping | None:
    if isinstance(record.get(BITSANDBYTES), dict):
        return "bitsandbytes"
    return "bitsandbytes, bare" if "state1" in record else None


def _inner(record: Record) -> Record:
    """The tensors of a record."""
    inner: Any = record.get(BITSANDBYTES, record)
    return {key: one for key, one in inner.items() if key != "step"} if isinstance(inner, dict) else {}


def _is_known(inner: Record) -> bool:
    """Whether a record has one average or two, each in floating-point numbers or in codes with all that they need."""
    expected: set[str] = set()
    for number in ("1", "2"):
        state: Tree = inner.get(f"state{number}")
        if not is_lazy(state):
            continue
        expected.add(f"state{number}")
        if not state.dtype.is_floating_point:
            expected |= {f"qmap{number}", f"absmax{number}"}
            if not _fits(state, inner.get(f"qmap{number}"), inner.get(f"absmax{number}")):
                return False
    return "state1" in expected and set(inner) == expected


def _fits(codes: LazyTensor, code_map: Tree, scales: Tree) -> bool:
    is_map = is_lazy(code_map) and code_map.shape == (NUM_CODES,)
    return is_map and is_lazy(scales) and codes.dtype.itemsize == 1 and bool(_blocks(codes, scales))


def _blocks(codes: LazyTensor, scales: LazyTensor) -> list[int]:
    """The sizes of blocks of which there are as many as scales."""
    return [block for block in BLOCKS if scales.shape == (-(-num_elements(codes) // block),)]


def block_of(records: Mapping[Any, Record]) -> int:
    """How many values the blocks of records have that are known; small ones do not tell."""
    return min(_common_blocks(records))


def _common_blocks(records: Mapping[Any, Record]) -> set[int]:
    inner = [_inner(record) for record in records.values()]
    pairs = [
        (one[f"state{number}"], one[f"absmax{number}"]) for one in inner for number in "12" if f"absmax{number}" in one
    ]
    every: set[int] = {*BLOCKS}
    return every.intersection(*(_blocks(codes, scales) for codes, scales in pairs))


def as_torchs(record: Record, options: Mapping[str, Any], block: int) -> dict[str, Any]:
    """A record with torch's words for its averages, those in codes as the numbers that they stand for."""
    inner = _inner(record)
    words = {"1": _word(options) if "state2" not in inner else "exp_avg", "2": "exp_avg_sq"}
    made = {key: one for key, one in record.items() if key != BITSANDBYTES and key not in inner}
    for number, word in words.items():
        if f"state{number}" not in inner:
            continue
        state, stored = inner[f"state{number}"], inner.get(f"qmap{number}")
        if stored is None:
            made[word] = state
        else:
            code_map = CodeMap(stored, block)
            made |= {word: InBlocks(state, inner[f"absmax{number}"], code_map), f"qmap{number}": code_map}
    return made


def _word(options: Mapping[str, Any]) -> str:
    """What torch calls the one average of an optimizer with these options."""
    betas: Any = options.get("betas", (0.0, 0.0))
    if options.get("eps", math.inf) == 0:
        return "exp_avg" if betas[1] else "momentum_buffer"
    return "square_avg" if betas[0] else "sum"


def as_bitsandbytes(record: Record, wrapping: Wrapping) -> dict[str, Tree]:
    """The reverse."""
    outer = {key: one for key, one in record.items() if key not in WORDS and key not in CODE_MAPS}
    inner: dict[str, Tree] = {}
    for key, value in record.items():
        word = WORDS.get(key)
        if word is None:
            continue
        code_map = record.get(f"qmap{word[-1]}")
        if isinstance(code_map, CodeMap):
            coded = in_blocks(value, code_map)
            inner |= {word: coded.codes, f"qmap{word[-1]}": code_map.stored, f"absmax{word[-1]}": coded.scales}
        else:
            inner[word] = value
    return {**outer, **({BITSANDBYTES: inner} if wrapping == "bitsandbytes" else inner)}
