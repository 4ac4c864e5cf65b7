"""The data of a run: one directory that `ckptgrow data` wrote, or several, each with its share of all sequences."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ckptgrow.data.directories import META, directories_in
from ckptgrow.errors import DataError
from ckptgrow.state.run_data import DIRECTORY, SHA256, SOURCES, TOKENIZER, VOCAB_SIZE, WEIGHT
from ckptgrow.train.isolation import Isolation
from ckptgrow.train.order import EndlessRow, Item, MixedPasses, Passes
from ckptgrow.train.token_sequences import Sequences, TokenFiles


@dataclass(frozen=True)
class Source:
    """Prepared data, and their share of all sequences that a run draws, above 0 and up to 1; `name` is in its logs."""

    name: str
    files: TokenFiles
    share: float


@dataclass(frozen=True)
class Mixture:
    """The sources of a run; their shares add up to 1."""

    sources: tuple[Source, ...]

    @classmethod
    def open(cls, data: Path | str) -> Mixture:
        """Reads what `directories_in` finds; weights become shares.

        Raises RequestError for what names no data, DataError for damaged data, or for sources of unequal tokens.
        """
        weighted = directories_in(data)
        total = math.fsum(weight for _, weight in weighted)
        found = tuple(
            Source(name, TokenFiles.open(directory), weight / total)
            for name, (directory, weight) in zip(_names([one for one, _ in weighted]), weighted, strict=True)
        )
        _check_tokens([one.files for one in found])
        return cls(found)

    @property
    def vocab_size(self) -> int:
        """The number of tokens of the tokenizer, the same for all sources."""
        return self.sources[0].files.vocab_size

    @property
    def tokenizer(self) -> str | None:
        """A name or an absolute directory."""
        return self.sources[0].files.tokenizer

    @property
    def meta(self) -> Path:
        """The file that says what the tokens are: the first source's."""
        return self.sources[0].files.directory / META

    @property
    def sha256(self) -> str:
        """Of the training tokens; of several sources, of their hashes and shares in order."""
        if len(self.sources) == 1:
            return self.sources[0].files.sha256.get("train", "")
        told = [f"{one.share:.12g} {one.files.sha256.get('train', '')}" for one in self.sources]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    @property
    def validated(self) -> tuple[Source, ...]:
        """The sources that have validation tokens."""
        return tuple(one for one in self.sources if one.files.num_tokens["val"])

    def record(self) -> dict[str, Any]:
        """What a run that goes on must find again for its place in the data to mean the same, and where evaluation
        finds the run's tokenizer and validation tokens; plain values.
        """
        tokenizer = {} if self.tokenizer is None else {TOKENIZER: self.tokenizer}
        found = {VOCAB_SIZE: self.vocab_size, SHA256: self.sha256, **tokenizer}
        directories = [str(one.files.directory.resolve()) for one in self.sources]
        if len(directories) == 1:
            return {**found, DIRECTORY: directories[0]}
        sources = [
            {DIRECTORY: directory, WEIGHT: one.share, SHA256: one.files.sha256.get("train", "")}
            for directory, one in zip(directories, self.sources, strict=True)
        ]
        return {**found, SOURCES: sources}

    def training(self, length: int) -> JoinedSequences:
        """All training sequences of `length` tokens; raises DataError for a source that is shorter than one."""
        return JoinedSequences([one.files.sequences("train", length) for one in self.sources])

    def row(self, length: int, seed: int) -> EndlessRow:
        """The order in which `training` is drawn."""
        sizes = self.training(length).sizes
        if len(sizes) == 1:
            return Passes(sizes[0], seed)
        return MixedPasses(sizes, [one.share for one in self.sources], seed)

    def isolation(self) -> Isolation:
        """How documents are told apart; raises DataError where `ckptgrow data` has not recorded it."""
        separator = self.sources[0].files.separator
        ends: list[float] = []
        for one in self.sources:
            num = one.files.num_documents.get("train")
            if num is None or separator is None:
                raise DataError(
                    f"{one.files.directory / 'meta.json'}: does not tell separator and num_documents, expected them "
                    "for ⟦documents isolated⟧; prepare the data again"
                )
            ends.append(one.share * num / max(1, one.files.num_tokens["train"]))
        return Isolation(separator or 0, 1 - math.fsum(ends))

    def mixed(self, losses: Sequence[float]) -> float:
        """The mean of losses of the `validated` sources, by their shares."""
        shares = [one.share for one in self.validated]
        return math.fsum(share * loss for share, loss in zip(shares, losses, strict=True)) / math.fsum(shares)


class JoinedSequences(Dataset[Any]):
    """Sequences of several files under one numbering, file after file."""

    def __init__(self, parts: Sequence[Sequences]) -> None:
        self._parts = parts
        self.sizes = [len(one) for one in parts]
        self._ends = list(accumulate(self.sizes))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, int]:
        """The tokens of an Item of the batch order, and the position after its micro-batch."""
        number, used, position = item
        part = bisect_right(self._ends, number)
        return self._parts[part][number - self._ends[part] + self.sizes[part]][: used + 1], position


def _names(directories: Sequence[Path]) -> list[str]:
    """The directories' own names; their whole paths where two have the same."""
    names = [one.name for one in directories]
    return names if len(set(names)) == len(names) else [str(one) for one in directories]


def _check_tokens(files: Sequence[TokenFiles]) -> None:
    """Raises DataError where a source's tokens are other ones than the first's."""
    first = files[0]
    for one in files[1:]:
        for name in ("vocab_size", "tokenizer", "separator"):
            expected, found = getattr(first, name), getattr(one, name)
            if found != expected and not _are_copies(found, expected):
                raise DataError(
                    f"{one.directory / 'meta.json'}: has {name} {found}, expected {expected} as in {first.directory}; "
                    "prepare both with the same tokenizer"
                )


def _are_copies(one: object, other: object) -> bool:
    """Whether two values name directories that hold the same tokenizer."""
    files = [Path(str(name)) / "tokenizer.json" for name in (one, other)]
    return all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()
