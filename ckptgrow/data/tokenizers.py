"""Tokenizers by name: any Hugging Face one, `bytes`, or a byte-level BPE trained on the input.

They give the tokens of the text alone, without begin or end tokens that the tokenizer would add. Special tokens that
the text spells are text: a page on GPT-2 in which "<|endoftext|>" occurs is one document.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckptgrow.choices import SpecialTokens
from ckptgrow.data.documents import Document
from ckptgrow.data.pretrained_tokenizer import pretrained_tokenizer
from ckptgrow.errors import DataError

BYTES = "bytes"
END_OF_TEXT = "<|endoftext|>"
Ids = NDArray[np.integer[Any]]
SPECIAL_TOKENS: tuple[SpecialTokens, ...] = ("text", "parse")


class Tokenizer(Protocol):
    """What turns texts into ids, as the preparation of data needs it."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def separator(self) -> int | None:
        """The id that stands behind every document; None where the tokenizer has none."""
        ...

    @property
    def reserved(self) -> frozenset[int]:
        """Ids that no text may give, because they begin or end documents; empty where special tokens are parsed."""
        ...

    @property
    def digest(self) -> str:
        """A text that is equal for tokenizers that give the same ids."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, with nothing added; any integer dtype."""
        ...

    def encode_apart(self, text: str) -> Ids:
        """The ids of a text for which `encode` gave a reserved id: what spells it is cut in two, where possible."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """A tokenizer whose tokens are the bytes of UTF-8; byte 0 ends documents, so no document may hold it."""

    vocab_size: int = 256
    separator: int | None = 0
    reserved: frozenset[int] = frozenset({0})

    @property
    def digest(self) -> str:
        """See Tokenizer."""
        return f"{BYTES} {sorted(self.reserved)}"

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See Tokenizer."""
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def encode_apart(self, text: str) -> Ids:
        """The ids as `encode` gives them, because a byte cannot be cut in two."""
        return self.encode([text])[0]


@dataclass(frozen=True, kw_only=True)
class FastTokenizer:
    """The `tokenizers` object inside a fast Hugging Face tokenizer; worker processes need no transformers for it."""

    tokenizer: Any
    vocab_size: int
    separator: int | None
    reserved: frozenset[int]
    spelled: tuple[str, ...]  # how special tokens are spelled

    @property
    def digest(self) -> str:
        """See Tokenizer."""
        told = [self.tokenizer.to_str(), self.separator, sorted(self.reserved)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See Tokenizer."""
        self.tokenizer.encode_special_tokens = bool(self.reserved)  # "as text"; it does not travel to other processes
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint32) for one in encoded]

    def encode_apart(self, text: str) -> Ids:
        """See Tokenizer."""
        return np.concatenate(self.encode(_parts(text, self.spelled)))


@dataclass(frozen=True, kw_only=True)
class SlowTokenizer:
    """A Hugging Face tokenizer written in Python."""

    tokenizer: Any
    vocab_size: int
    separator: int | None
    reserved: frozenset[int]
    spelled: tuple[str, ...]

    @property
    def digest(self) -> str:
        """See Tokenizer."""
        told = [type(self.tokenizer).__name__, sorted(self.tokenizer.get_vocab().items()), sorted(self.reserved)]
        return hashlib.sha256(json.dumps([*told, self.separator]).encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See Tokenizer."""
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=bool(self.reserved),
            return_attention_mask=False,
            verbose=False,
        )
        return [np.array(ids, dtype=np.uint32) for ids in encoded["input_ids"]]

    def encode_apart(self, text: str) -> Ids:
        """See Tokenizer."""
        return np.concatenate(self.encode(_parts(text, self.spelled)))


def encoded(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Ids]:
    """The ids of each document's text.

    Raises DataError, which names the place, where a text gives an id that begins or ends documents, or one outside the
    tokenizer's vocabulary.
    """
    found = tokenizer.encode([one.text for one in documents])
    reserved = np.array(sorted(tokenizer.reserved), dtype=np.int64)
    every = np.concatenate(found) if found else np.array([], dtype=np.int64)
    if not np.isin(every, reserved).any() and every.max(initial=0) < tokenizer.vocab_size:
        return found
    for number, (ids, (text, place)) in enumerate(zip(found, documents, strict=True)):
        if np.isin(ids, reserved).any():
            ids = found[number] = tokenizer.encode_apart(text)  # noqa: PLW2901
            forged = np.intersect1d(ids, reserved)
            if forged.size:
                raise DataError(
                    f"{place}: gives the token {forged[0]}, which begins or ends documents, expected none in a text; "
                    "remove it, or let it end documents with ⟦special_tokens parse⟧"
                )
        if ids.size and ids.max() >= tokenizer.vocab_size:
            raise DataError(
                f"{place}: gives the token {ids.max()}, expected ids below {tokenizer.vocab_size}, the largest in the "
                "tokenizer's vocabulary; choose another tokenizer"
            )
    return found


def separator_of(tokenizer: Tokenizer, name: str) -> int:
    """The id that ends documents; raises DataError where the tokenizer has none."""
    if tokenizer.separator is None:
        raise DataError(f"⟦tokenizer {name}⟧: has no eos, sep or bos token, expected one that can end documents")
    return tokenizer.separator


def load(name: str, special_tokens: SpecialTokens = "text") -> Tokenizer:
    """Loads a tokenizer: `bytes`, a directory, or a name on the hub or in its cache; raises DataError for others."""
    if name == BYTES:
        return ByteTokenizer() if special_tokens == "text" else ByteTokenizer(reserved=frozenset())
    try:
        tokenizer = pretrained_tokenizer(name)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:120]
        raise DataError(f"⟦tokenizer {name}⟧: cannot be loaded ({reason}); give a directory, or bytes") from error
    return of_transformers(tokenizer, special_tokens)


def of_transformers(tokenizer: Any, special_tokens: SpecialTokens = "text") -> Tokenizer:
    """Wraps a Hugging Face tokenizer, which stays as it is."""
    ends = [
        one for one in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id) if isinstance(one, int)
    ]
    separator = ends[0] if ends else None
    vocab_size = 1 + max([*tokenizer.get_vocab().values(), *tokenizer.all_special_ids], default=-1)
    reserved: set[int] = set()
    if special_tokens == "text":
        reserved = (set(ends) - {tokenizer.unk_token_id}) | set(ends[:1])  # unknown words give the unknown token
    spelled = tuple(str(one) for one in tokenizer.all_special_tokens)
    if not tokenizer.is_fast:
        return SlowTokenizer(
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            separator=separator,
            reserved=frozenset(reserved),
            spelled=spelled,
        )
    fast = copy.deepcopy(tokenizer.backend_tokenizer)
    fast.no_truncation()
    fast.no_padding()
    return FastTokenizer(
        tokenizer=fast, vocab_size=vocab_size, separator=separator, reserved=frozenset(reserved), spelled=spelled
    )


def _parts(text: str, spelled: Sequence[str]) -> list[str]:
    """A text cut after the first character of every spelled special token, so that none stands in one part.

    >>> _parts("a <|end|> b", ["<|end|>"])
    ['a <', '|end|> b']
    """
    cuts: set[int] = set()
    for token in spelled:
        start = text.find(token) if len(token) > 1 else -1
        while start >= 0:
            cuts.add(start + 1)
            start = text.find(token, start + 1)
    edges = [0, *sorted(cuts), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


def train(texts: Iterable[str], vocab_size: int, directory: Path) -> str:
    """Trains a byte-level BPE and saves it as a Hugging Face tokenizer; returns its directory's name.

    Source: Sennrich, Haddow & Birch, "Neural Machine Translation of Rare Words with Subword Units", arXiv 1508.07909.
    """
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=END_OF_TEXT).save_pretrained(directory)
    return str(directory)
