"""Growing the vocabulary: new rows of embeddings and heads, or those of another tokenizer's tokens.

Logits of old tokens stay as they are, to the bit. The softmax gets the new tokens too, so the function changes; by how
much at most says `token_rows`. New rows have first moments of zero, and the second moments of rare tokens
(`tensors.blended_rows`).

Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021 (the mean, and its bound); the
moments are derived here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from ckptgrow.addresses.address import local_path
from ckptgrow.choices import RowInit
from ckptgrow.data.pretrained_tokenizer import pretrained_tokenizer
from ckptgrow.data.token_texts import BYTES, TokenTexts, token_texts, tokenizer_in
from ckptgrow.errors import RequestError
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.growth.contradictions import check_vocab
from ckptgrow.growth.growing import Source
from ckptgrow.growth.operator import Operator, nothing_follows
from ckptgrow.growth.pipeline import grow
from ckptgrow.growth.refusals import check_exact
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.growth.rho import RHO
from ckptgrow.growth.token_ids import SUFFIX, TokenMoves
from ckptgrow.growth.token_rows import TokenRows, check_shrinks, matched_rows, new_ids, resized_rows
from ckptgrow.progress import Progress, silent
from ckptgrow.spaces.growth import Growth, identities
from ckptgrow.spaces.layers import Layer
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_sizes
from ckptgrow.state.run_data import run_data_of

SPACE = "vocab"
CAPS = ("final_logit_softcapping",)  # config fields; a capped mean may be more than the mean of capped logits


def vocab(
    source: Source,
    target: str | Path | None,
    *,
    size: int | None = None,
    tokenizer: str | None = None,
    pad_to: int = 1,
    init: RowInit | None = None,
    old_tokenizer: str | None = None,
    request: StateRequest | None = None,
    progress: Progress = silent,
) -> GrowthResult:
    """Gives a checkpoint `size` rows of vocabulary, or those of another `tokenizer` (a directory, a name on the hub, or
    bytes), rounded up to a multiple of `pad_to`.

    Old tokens keep their rows and moments, found by their text under another tokenizer. New ones begin as `init` says:
    "mean" of all old rows, by which the loss rises by log(1 + n/V) at most; "pieces" (the default under a tokenizer),
    where they are read, the mean of the rows of the tokens that the old tokenizer makes of their text; "copy", that of
    the first piece, or of old rows in turn. `old_tokenizer` is the one of the checkpoint, where none lies beside it.
    Fewer rows are refused where they are not padding, above the tokenizer's length.

    Raises RequestError for sizes that cannot be, DataError for a tokenizer that cannot be loaded, CkptgrowError for
    what is wrong with the source.
    """
    request = request or StateRequest()
    check_vocab({"size": size, "tokenizer": tokenizer, "pad_to": pad_to, "init": init}, request)
    read = read_checkpoint(local_path(source)) if isinstance(source, str | Path) else source
    with _files_of(tokenizer) as files:
        plan = _Plan(
            read=read,
            size=size,
            tokenizer=tokenizer,
            pad_to=pad_to,
            init=init or ("mean" if tokenizer is None else "pieces"),
            old_tokenizer=old_tokenizer,
            files=files,
        )
        return grow(read, target, plan.operator, request, progress)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A growth of the vocabulary; `read` is the checkpoint, `files` the directory with the new tokenizer's files."""

    read: Checkpoint
    size: int | None
    tokenizer: str | None
    pad_to: int
    init: RowInit
    old_tokenizer: str | None
    files: Path | None

    def operator(self, old: Architecture) -> Operator:
        """The operator on a model; raises RequestError for rows that this model cannot have."""
        if SPACE not in old.sizes:
            raise RequestError(f"{old.where}: {old.family.model_type} has no vocabulary, expected a model of tokens")
        check_exact(old, SPACE)
        new = None if self.tokenizer is None else token_texts(self.tokenizer)
        rows = self._resized(old) if new is None else self._matched(old, new)
        config = with_sizes(old, {**old.sizes, SPACE: len(rows.source)})
        operator = Operator(
            growths={**identities(old.sizes), SPACE: rows.growth(self.init)},
            layers=[Layer(index, "old") for index in range(old.num_layers)],
            config=config,
            trapped=False,
            rho=RHO["vocab"],
            fresh_moments="rare",
            follows=nothing_follows,
            notes=_notes(old, rows, self.init),
            record=self._record(rows),
        )
        if new is None:
            _check_ids(old, len(rows.source))
            return operator
        moves = self._moves(rows, new)
        fields = moves.fields(config)
        _check_positions(old, fields)
        return replace(operator, config={**config, **fields}, follows=moves.followed)

    def _resized(self, old: Architecture) -> TokenRows:
        assert self.size is not None
        size = _rounded(self.size, self.pad_to)
        named = None if size >= old.sizes[SPACE] else self._old_name()
        check_shrinks(old.sizes[SPACE], size, None if named is None else token_texts(named).num_ids)
        return resized_rows(old.sizes[SPACE], size)

    def _matched(self, old: Architecture, new: TokenTexts) -> TokenRows:
        return matched_rows(self._old_texts, new, old.sizes[SPACE], _rounded(new.num_ids, self.pad_to))

    @cached_property
    def _old_texts(self) -> TokenTexts:
        named = self._old_name()
        if named is None:
            raise RequestError(
                f"{self.read.path}: nothing says its own tokenizer, by which tokens are matched, expected one beside "
                "it; pass ⟦old_tokenizer NAME⟧, DIR or bytes"
            )
        return token_texts(named)

    def _old_name(self) -> str | None:
        """The checkpoint's own tokenizer: as asked, beside it, or of its run's data."""
        path = self.read.path
        beside = tokenizer_in(path if path.is_dir() else path.parent) if path.exists() else None
        return self.old_tokenizer or beside or run_data_of(self.read).tokenizer

    def _moves(self, rows: TokenRows, new: TokenTexts) -> TokenMoves:
        return TokenMoves(
            moved=new_ids(rows),
            old_roles=self._old_texts.roles,
            new_roles=new.roles,
            tokenizer=str(self.tokenizer),
            files=self.files,
        )

    def _record(self, rows: TokenRows) -> OperatorRecord:
        """What the history keeps of it."""
        asked = {"tokenizer": self.tokenizer, "old_tokenizer": self.old_tokenizer}
        record = {
            "operator": "vocab",
            SPACE: len(rows.source),
            "init": self.init,
            "pad_to": self.pad_to,
            "kept": kept_runs(rows.growth("mean")),
            "pieces": rows.parts(self.init),
            **{name: value for name, value in asked.items() if value is not None},
        }
        return cast(OperatorRecord, cast(object, record))


def kept_runs(growth: Growth) -> list[list[int]]:
    """The old rows that stay, as runs of their new begin, new end and old begin."""
    return [[run.start, run.stop, run.source] for run in growth.runs]


def _rounded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _notes(old: Architecture, rows: TokenRows, init: RowInit) -> list[str]:
    num, total = rows.num_new, rows.num_old
    notes = [f"{num} new rows, {total - rows.num_lost} of {total} old ones kept, with their moments"]
    if rows.num_lost:
        notes.append(f"{rows.num_lost} old rows are of no token any more and are left out")
    if not num:
        return notes
    if _has_bound(old, init):
        return [
            *notes,
            f"the loss on old tokens rises by at most log(1 + {num}/{total}) = {rows.bound:.3g} nats, for new rows of "
            "the head are the mean of the old ones",
        ]
    return [*notes, "how much the loss on old tokens rises has no bound with these rows: see verify"]


def _has_bound(old: Architecture, init: RowInit) -> bool:
    """Whether new logits are means of old ones, without a cap behind that."""
    is_mean = init == "mean" or (init == "pieces" and not old.is_tied)
    return is_mean and not any(old.config.get(field) for field in CAPS)


def _check_ids(old: Architecture, size: int) -> None:
    """Raises RequestError where the config names a token whose row would go."""
    lost = range(size, old.sizes[SPACE])
    beyond = [key for key, one in old.config.items() if key.endswith(SUFFIX) and one in lost]
    if beyond:
        raise RequestError(
            f"⟦size {size}⟧: the config's {beyond[0]} is {old.config[beyond[0]]}, expected a larger size"
        )


def _check_positions(old: Architecture, fields: Mapping[str, Any]) -> None:
    """Raises RequestError where another number of the padding token would move all positions."""
    if old.family.unused_positions and "pad_token_id" in fields:
        raise RequestError(
            f"{old.where}: {old.family.model_type} counts positions from its padding token's number, so "
            f"{old.config['pad_token_id']} cannot become {fields['pad_token_id']}; give the tokenizer's padding token "
            "the old number"
        )


@contextmanager
def _files_of(tokenizer: str | None) -> Generator[Path | None]:
    """The directory with a tokenizer's files: its own, or a temporary one for a name on the hub; None for bytes."""
    if tokenizer is None or tokenizer == BYTES:
        yield None
    elif Path(tokenizer).is_dir():
        yield Path(tokenizer)
    else:
        with TemporaryDirectory() as directory:
            _save(tokenizer, Path(directory))
            yield Path(directory)


def _save(tokenizer: str, directory: Path) -> None:
    token_texts(tokenizer)  # raises where there is none
    pretrained_tokenizer(tokenizer).save_pretrained(directory)
