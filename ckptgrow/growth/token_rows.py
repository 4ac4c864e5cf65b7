"""Which row of the vocabulary each token has: the old one of the same token, or the mean of some old ones.

A token of another tokenizer keeps the row of the old token that spells the same; special tokens also that of the old
one in their role (begin, end, padding …). Rows above both tokenizers' lengths are padding, and stay. All other tokens
are new. With h·w the logit of a row w, new head rows that are the mean of all V old ones add, by Jensen's inequality,

    Σ_new exp(h·w̄)  ≤  (n/V) Σ_old exp(h·w)

to the softmax's sum for n new tokens, so that the loss on old tokens rises by log(1 + n/V) at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptgrow.choices import RowInit
from ckptgrow.data.token_texts import TokenTexts
from ckptgrow.errors import RequestError
from ckptgrow.spaces.growth import FRESH, Blends, Growth, IntVector


@dataclass(frozen=True, eq=False)
class TokenRows:
    """For every new token the old row that it keeps, FRESH for a new one; and of new ones, in order, the old tokens
    that spell it, none where nothing does.
    """

    source: IntVector
    pieces: Sequence[Sequence[int]]
    num_old: int

    @property
    def num_new(self) -> int:
        """How many tokens are new."""
        return int((self.source == FRESH).sum())

    @property
    def num_lost(self) -> int:
        """How many old rows no token keeps."""
        return self.num_old - int((self.source != FRESH).sum())

    @property
    def bound(self) -> float:
        """By how much, in nats, the loss on kept tokens may rise where new head rows are the mean of the old ones."""
        return math.log1p(self.num_new / self.num_old)

    def growth(self, init: RowInit) -> Growth:
        """The growth of the space. With `pieces` what writes logits by itself begins as the mean of all rows all the
        same, so that the bound holds.
        """
        mean, own = self._means(), self._own(init)
        ones = np.ones(len(self.source))
        return Growth(
            source=self.source,
            write=ones,
            read=ones,
            num_old=self.num_old,
            written_as=own if init == "copy" else mean,
            read_as=own if init != "mean" else mean,
        )

    def parts(self, init: RowInit) -> list[list[int]]:
        """Of every new token, in order, the old rows of which it is the mean where tokens are read; none for all."""
        if init == "mean":
            return []
        return [list(one[:1] if init == "copy" else one) for one in self.pieces]

    def _means(self) -> Blends:
        return Blends.of_means(np.where(self.source == FRESH, 0, FRESH), [np.arange(self.num_old)])

    def _own(self, init: RowInit) -> Blends:
        """Every new token's own blend; the first one is of all rows, for those that nothing spells."""
        number, sources = np.where(self.source == FRESH, 0, FRESH), [np.arange(self.num_old)]
        for place, parts in zip(np.flatnonzero(self.source == FRESH).tolist(), self.parts(init), strict=False):
            if parts:
                number[place] = len(sources)
                sources.append(np.array(parts, dtype=np.int64))
        return Blends.of_means(number, sources)


def resized_rows(num_old: int, size: int) -> TokenRows:
    """The first rows, and new ones behind them, which by themselves spell nothing: each is an old one's copy in turn,
    where it is to be a copy.
    """
    source = np.where(np.arange(size) < num_old, np.arange(size), FRESH)
    return TokenRows(source, [[place % num_old] for place in range(max(0, size - num_old))], num_old)


def matched_rows(old: TokenTexts, new: TokenTexts, num_old: int, size: int) -> TokenRows:
    """The rows of another tokenizer's tokens in a model of `num_old` rows."""
    source, taken = np.full(size, FRESH), set[int]()
    wanted = {number: place for number, text in _texts(new).items() if (place := old.ids.get(text)) is not None}
    for role, number in new.roles.items():
        if role in old.roles and number in new.special:
            wanted.setdefault(number, old.roles[role])
    wanted |= {number: number for number in range(new.num_ids, min(size, num_old)) if number >= old.num_ids}
    for number, place in sorted(wanted.items(), key=lambda pair: (pair[0] != pair[1], pair[0])):
        if number < size and place < num_old and place not in taken:
            source[number] = place
            taken.add(place)
    texts = _texts(new)
    pieces: list[list[int]] = []
    for number in np.flatnonzero(source == FRESH).tolist():
        text = texts.get(number)
        spelled = [] if text is None else old.pieces(text.encode() if isinstance(text, str) else text)
        pieces.append([one for one in spelled if one < num_old])
    return TokenRows(source, pieces, num_old)


def new_ids(rows: TokenRows) -> Mapping[int, int]:
    """Where the row of each old token went."""
    kept = np.flatnonzero(rows.source != FRESH)
    return dict(zip(rows.source[kept].tolist(), kept.tolist(), strict=True))


def check_shrinks(num_old: int, size: int, tokens: int | None) -> None:
    """Raises RequestError where rows of tokens would be lost, or nothing says which rows are padding."""
    if size >= num_old:
        return
    if tokens is None:
        raise RequestError(
            f"⟦size {size}⟧: has fewer rows than the old {num_old}, and nothing says which of these are padding, "
            "expected a tokenizer beside the checkpoint; pass ⟦old_tokenizer NAME⟧"
        )
    if size < tokens:
        raise RequestError(
            f"⟦size {size}⟧: the tokenizer has {tokens} tokens, expected at least as many rows: only padding can go"
        )


def _texts(one: TokenTexts) -> dict[int, bytes | str]:
    return {**one.plain, **one.special}
