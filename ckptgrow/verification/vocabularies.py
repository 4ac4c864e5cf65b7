"""What names tokens besides the weights: the record's rows, configs and files, against both tokenizers themselves.

Both are read by transformers, one token at a time: a kept row must be of a token with the same text, or the same role;
the pieces of a new one must spell it; and whatever names a token by its number must name the one of the same role or
text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from ckptgrow.data.token_texts import BYTES, ROLES, TOKENIZER_FILES, tokenizer_in
from ckptgrow.storage.files.json_files import read_json
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences, text

GENERATION = "generation_config.json"
SUFFIX = "_token_id"
LISTS = ("suppress_tokens", "begin_suppress_tokens")
NO_TEXT = "�"  # what bytes that are no text decode to
SPACES = " ▁"
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class _Tokens:
    """A tokenizer of transformers; None is that of bytes."""

    tokenizer: Any

    def text(self, number: int) -> str:
        """What a token spells; a word's begin is not told."""
        if self.tokenizer is None:
            return bytes([number]).decode("utf-8", errors="replace").strip(SPACES)
        name = self.tokenizer.convert_ids_to_tokens(number)
        shown = "" if name is None else str(self.tokenizer.convert_tokens_to_string([name]))
        return (shown or str(name)).strip(SPACES)

    def spelled(self, numbers: Sequence[int]) -> str:
        """What several tokens spell."""
        if self.tokenizer is None:
            return bytes(numbers).decode("utf-8", errors="replace").strip(SPACES)
        names = self.tokenizer.convert_ids_to_tokens(list(numbers))
        return str(self.tokenizer.convert_tokens_to_string(names)).strip(SPACES)

    def roles(self) -> dict[str, int]:
        """Special tokens by their roles."""
        if self.tokenizer is None:
            return {"eos": 0}
        found = {role: getattr(self.tokenizer, f"{role}{SUFFIX}") for role in ROLES}
        return {role: number for role, number in found.items() if isinstance(number, int)}

    def __len__(self) -> int:
        return 256 if self.tokenizer is None else 1 + max(self.tokenizer.get_vocab().values())


@dataclass(frozen=True, eq=False)
class Vocabularies:
    """The vocabularies of a pair of which the record says that another tokenizer came."""

    pair: Pair
    record: Tree

    @classmethod
    def of(cls, pair: Pair) -> Vocabularies | None:
        """Those of a pair; None where the tokenizer stayed."""
        record = pair.row_record
        return cls(pair, record) if record is not None and record.get("tokenizer") else None

    @cached_property
    def old(self) -> _Tokens | None:
        """The small checkpoint's tokenizer; None where it is nowhere."""
        return _loaded(self.record.get("old_tokenizer"), self.pair.small.checkpoint.path)

    @cached_property
    def new(self) -> _Tokens | None:
        """The grown one's."""
        return _loaded(self.record.get("tokenizer"), self.pair.grown.checkpoint.path)

    @cached_property
    def moved(self) -> Mapping[int, int]:
        """Where each old row went, by the record."""
        source = self.pair.growths["vocab"].source
        kept = np.flatnonzero(source >= 0)
        return dict(zip(source[kept].tolist(), kept.tolist(), strict=True))

    def problems(self) -> Iterator[str]:
        """Rows that belong to other tokens than the tokenizers have, and files that are another tokenizer's."""
        if self.old is not None and self.new is not None:
            yield from self._kept_problems(self.old, self.new)
            yield from self._piece_problems(self.old, self.new)
        yield from self._file_problems()

    def fields(self, small: Tree, grown: Tree, where: str) -> Iterator[str]:
        """What is wrong with the fields that name tokens."""
        for key in sorted(small.keys() | grown.keys()):
            if is_of_tokens(key):
                allowed = self._allowed(small.get(key), key)
                if grown.get(key) not in allowed:
                    yield f"{where}[{key!r}] is {text(grown.get(key))}, expected {text(allowed[0])}"

    def settings_problems(self, before: Path, after: Path) -> Iterator[str]:
        """What is wrong with the settings of generation, in the files of both."""
        small, grown = read_json(before), read_json(after)
        yield from self.fields(small, grown, GENERATION)
        others = [{key: value for key, value in one.items() if not is_of_tokens(key)} for one in (grown, small)]
        yield from differences(others[0], others[1], (GENERATION,))

    def _allowed(self, value: Any, key: str) -> list[Any]:
        """What a field may be: the number of the same role in the new tokenizer, or where the token's row went."""
        if isinstance(value, list):
            found = [self._allowed(one, key)[0] for one in cast(list[Any], value)]
            return [[one for one in dict.fromkeys(found) if one is not None]]
        if not isinstance(value, int) or isinstance(value, bool):
            return [value]
        role = key.removesuffix(SUFFIX)
        old, new = (None if one is None else one.roles().get(role) for one in (self.old, self.new))
        if key in LISTS:
            return [self.moved.get(value)]
        if old == value and new is not None:
            return [new]
        return [self.moved.get(value, new), *([] if self.old is not None else [new])]

    def _kept_problems(self, old: _Tokens, new: _Tokens) -> Iterator[str]:
        roles = {(old.roles()[role], number) for role, number in new.roles().items() if role in old.roles()}
        for before, after in self.moved.items():
            if before >= len(old) or after >= len(new):
                if (before >= len(old)) != (after >= len(new)):
                    yield f"row {after} of the vocabulary is old row {before}, of which one is a token and one is none"
                continue
            if old.text(before) != new.text(after) and (before, after) not in roles:
                named, found = text(new.text(after)), text(old.text(before))
                yield f"row {after} of the vocabulary, {named}, is the old row of {found}"
                return

    def _piece_problems(self, old: _Tokens, new: _Tokens) -> Iterator[str]:
        fresh = np.flatnonzero(self.pair.growths["vocab"].is_fresh).tolist()
        if self.record.get("init") != "pieces":
            return
        pieces: Sequence[Sequence[int]] = self.record.get("pieces") or ()
        for number, parts in zip(fresh, pieces, strict=False):
            if not parts or number >= len(new) or any(one >= len(old) for one in parts):
                continue
            expected, found = new.text(number), old.spelled(parts)
            if NO_TEXT not in expected + found and expected.replace(" ", "") != found.replace(" ", ""):
                yield f"row {number} of the vocabulary, {text(expected)}, is the mean of the rows of {text(found)}"
                return

    def _file_problems(self) -> Iterator[str]:
        """Tokenizer files that are not those of the new tokenizer, where its directory is still there."""
        there, own = Path(str(self.record["tokenizer"])), self.pair.grown.checkpoint.carried
        if not there.is_dir() or self.pair.grown.checkpoint.kind not in ("huggingface", "trainer"):
            return
        for name in TOKENIZER_FILES:
            expected = (there / name).read_bytes() if (there / name).is_file() else None
            found = (own.directory / name).read_bytes() if name in own.files else None
            if found != expected:
                yield f"the file {name} is not the one of {there}, whose tokenizer the history names"


def is_of_tokens(key: str) -> bool:
    """Whether a field names tokens."""
    return key.endswith(SUFFIX) or key in LISTS


def _loaded(name: Any, path: Path) -> _Tokens | None:
    """The tokenizer that the record names, or that lies beside a checkpoint."""
    from transformers import AutoTokenizer

    beside = tokenizer_in(path if path.is_dir() else path.parent)
    for one in (beside, name):
        if one == BYTES:
            return _Tokens(None)
        if one is not None and Path(str(one)).is_dir():
            try:
                return _Tokens(AutoTokenizer.from_pretrained(str(one)))
            except (OSError, ValueError, KeyError, TypeError, ImportError):
                continue
    return None
