"""Files of tokens as data sets of sequences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ckptgrow.data.directories import META, not_prepared
from ckptgrow.errors import DataError

DTYPES = ("uint16", "uint32")


@dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """A directory that `ckptgrow data` wrote. `sha256` and `num_tokens` have one entry a split; `tokenizer` is a name
    or an absolute directory, `separator` the token behind every document, `num_documents` how many a split has.
    """

    directory: Path
    vocab_size: int
    dtype: str
    num_tokens: Mapping[str, int]
    sha256: Mapping[str, str]
    tokenizer: str | None = None
    separator: int | None = None
    num_documents: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def open(cls, directory: Path) -> TokenFiles:
        """Reads `meta.json` and compares the files' sizes with it.

        Raises DataError where it does not exist or is damaged, or where a file has another size than it says.
        """
        path = directory / META
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            found = cls(
                directory=directory,
                vocab_size=int(meta["vocab_size"]),
                dtype=str(meta["dtype"]),
                num_tokens={str(split): int(num) for split, num in meta["num_tokens"].items()},
                sha256={str(split): str(digest) for split, digest in meta["sha256"].items()},
                tokenizer=_tokenizer(directory, meta.get("tokenizer")),
                separator=None if meta.get("separator") is None else int(meta["separator"]),
                num_documents={str(split): int(num) for split, num in (meta.get("num_documents") or {}).items()},
            )
        except OSError as error:
            raise not_prepared(directory) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: is damaged ({error!r}); prepare the data again") from error
        if found.dtype not in DTYPES:
            raise DataError(f"{path}: says dtype {found.dtype}, expected {' or '.join(DTYPES)}; prepare the data again")
        for split in ("train", "val"):
            found._check_size(split)
        return found

    def sequences(self, split: str, length: int) -> Sequences:
        """A split cut into sequences of `length` tokens; raises DataError where it is shorter than one."""
        path = self.directory / f"{split}.bin"
        num = self.num_tokens[split]
        if num < length + 1:
            raise DataError(
                f"{path}: has {num} tokens, expected at least {length + 1} for one sequence; prepare more data, or "
                "lower ⟦seqlen⟧"
            )
        return Sequences(path, self.dtype, length)

    def _check_size(self, split: str) -> None:
        path = self.directory / f"{split}.bin"
        if not path.exists():
            raise DataError(f"{path}: no such file, expected what `ckptgrow data` writes")
        expected = self.num_tokens.get(split, 0) * np.dtype(self.dtype).itemsize
        if path.stat().st_size != expected:
            raise DataError(
                f"{path}: has {path.stat().st_size} bytes, expected {expected} for the {self.dtype} tokens that "
                "meta.json counts; prepare the data again"
            )


def _tokenizer(directory: Path, told: object) -> str | None:
    """What meta.json calls the tokenizer: a directory as seen from here, from meta.json or beside it, or a name."""
    if not isinstance(told, str):
        return None
    places = (Path(told), directory / told, directory / Path(told).name)
    return next((str(place.resolve()) for place in places if place.is_dir()), told)


class Sequences(Dataset[torch.Tensor]):
    """A data set whose item i is tokens [i·length, (i + 1)·length], int64: one more than the length."""

    def __init__(self, path: Path, dtype: str, length: int) -> None:
        self.path, self.dtype, self.length = path, dtype, length
        self._tokens: Any = None
        self._num = (path.stat().st_size // np.dtype(dtype).itemsize - 1) // length

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, number: int) -> torch.Tensor:
        """A sequence by its number."""
        if self._tokens is None:  # opened by the process that reads: a memory map does not travel to workers
            self._tokens = np.memmap(self.path, dtype=self.dtype, mode="r")
        start = number * self.length
        return torch.from_numpy(self._tokens[start : start + self.length + 1].astype(np.int64))
