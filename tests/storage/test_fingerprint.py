"""The fingerprint of a checkpoint: the same whoever reads its rows, in whatever order, and nothing is read twice."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch

from ckptgrow.distributed import Processes
from ckptgrow.storage import fingerprint
from ckptgrow.storage.fingerprint import Fingerprint, flat_value
from ckptgrow.storage.tensors import InMemory, LazyTensor

BLOCK = 64  # bytes, in these tests


@dataclass(frozen=True, eq=False)
class Counted(InMemory):
    """A tensor that counts how often each of its rows is read."""

    reads: Any

    def rows(self, start: int, stop: int) -> torch.Tensor:
        self.reads[start:stop] += 1
        return super().rows(start, stop)


def tensors(sizes: list[tuple[int, int]]) -> dict[str, LazyTensor]:
    made = {f"t{number}": torch.randn(size) for number, size in enumerate(sizes)}
    return {name: Counted(one, torch.zeros(len(one))) for name, one in made.items()} | {
        "flat": InMemory(torch.arange(37, dtype=torch.int16)),
        "scalar": InMemory(torch.tensor(3.0)),
        "none": InMemory(torch.zeros(0, 4)),
    }


def expected(found: Mapping[str, LazyTensor]) -> str:
    """By the definition: blocks of as many rows as the largest power of two of them that fits."""
    total = hashlib.sha256()
    for name, tensor in sorted(found.items()):
        assert isinstance(tensor, InMemory)
        data, num_rows = tensor.tensor.numpy().tobytes(), tensor.shape[0] if tensor.shape else 1
        row = len(data) // max(1, num_rows)
        fit = 1
        while row and 2 * fit * row <= BLOCK:
            fit *= 2
        blocks = [data[start : start + fit * row] for start in range(0, len(data), max(1, fit * row))]
        of_tensor = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in blocks)).hexdigest()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)} {of_tensor}\n".encode())
    return total.hexdigest()


SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_the_value_is_the_same_whatever_rows_were_read_before(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    with MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "BLOCK_BYTES", BLOCK)
        found = tensors(sizes)
        one = Fingerprint(found)
        for name in data.draw(st.lists(st.sampled_from(sorted(found)), max_size=12)):
            num_rows = found[name].shape[0] if found[name].shape else 1
            start = data.draw(st.integers(0, max(0, num_rows - 1)))
            one.tensors[name].rows(start, data.draw(st.integers(start, num_rows)) if found[name].shape else 1)
        assert one.value() == expected(found)


def test_rows_that_were_read_in_order_are_not_read_again(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "BLOCK_BYTES", BLOCK)
    found = tensors([(40, 3)])
    one = Fingerprint(found)
    for start in range(0, 40, 5):
        one.tensors["t0"].rows(start, start + 5)
    one.value()
    counted = found["t0"]
    assert isinstance(counted, Counted) and bool((counted.reads == 1).all())


@dataclass(frozen=True)
class Threads(Processes):
    """Processes that are threads of this one, and meet at a barrier."""

    box: Any = None
    barrier: Any = None

    def gather(self, value: Any) -> list[Any]:
        self.box[self.rank] = pickle.dumps(value)  # what it is now, as between processes
        self.barrier.wait()
        found = [pickle.loads(one) for one in self.box]
        self.barrier.wait()
        return found


def test_processes_that_read_parts_know_the_value_together_and_read_the_rest_once(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "BLOCK_BYTES", BLOCK)
    count, found = 3, tensors([(40, 3), (33, 5)])
    ones = [Fingerprint(found) for _ in range(count)]
    for rank, one in enumerate(ones):
        one.tensors["t0"].rows(rank * 12, rank * 12 + 12)  # blocks of 4 rows; the last one is left
    box, barrier, values = [None] * count, threading.Barrier(count), [""] * count

    def work(rank: int) -> None:
        ones[rank].share(Threads(rank, count, box, barrier))
        values[rank] = ones[rank].value()

    running = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert values == [expected(found)] * count
    for tensor in found.values():
        assert not isinstance(tensor, Counted) or bool((tensor.reads == 1).all())


def test_the_flat_value_is_of_all_bytes_in_order() -> None:
    found = tensors([(5, 3)])
    total = hashlib.sha256()
    for name, tensor in sorted(found.items()):
        assert isinstance(tensor, InMemory)
        of_tensor = hashlib.sha256(tensor.tensor.numpy().tobytes()).hexdigest()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)} {of_tensor}\n".encode())
    assert flat_value(found) == total.hexdigest()
