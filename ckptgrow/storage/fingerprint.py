"""The sha256 of a checkpoint's tensors, computed from their rows while something else reads these."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping

import torch

from ckptgrow.storage.tensors import LazyTensor, bytes_of, chunks


class Watched:
    """A tensor whose rows are hashed when they are read, each once and in order."""

    def __init__(self, tensor: LazyTensor) -> None:
        self._tensor = tensor
        self._hash = hashlib.sha256()
        self._rows_seen = 0
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        return self._tensor.shape

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self._tensor.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor."""
        rows = self._tensor.rows(start, stop)
        with self._lock:
            if start <= self._rows_seen < stop:
                self._hash.update(bytes_of(rows[self._rows_seen - start :] if self.shape else rows))
                self._rows_seen = stop
        return rows

    def digest(self) -> str:
        """The sha256 of all its bytes; rows that were not read yet are read now."""
        for start, stop in chunks(self._tensor):
            if stop > self._rows_seen:
                self.rows(start, stop)
        return self._hash.hexdigest()


class Fingerprint:
    """One sha256 over names, dtypes, shapes and bytes of all tensors, in the order of their names.

    `placeholder` stands for it in what is written before the tensors have gone by.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        watched = {id(tensor): Watched(tensor) for tensor in tensors.values()}
        self._watched = {name: watched[id(tensor)] for name, tensor in tensors.items()}
        self.tensors: Mapping[str, LazyTensor] = self._watched
        self.placeholder = secrets.token_hex(32)

    def value(self) -> str:
        """The sha256, in hexadecimal."""
        total = hashlib.sha256()
        for name, one in sorted(self._watched.items()):
            total.update(f"{name} {one.dtype} {list(one.shape)} {one.digest()}\n".encode())
        return total.hexdigest()
