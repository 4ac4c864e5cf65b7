"""Makes `train.bin`, `val.bin` and `meta.json` from documents, in parallel and resumable.

Memory does not grow with the input. A hash of its text decides whether a document is for validation, so the split
depends neither on the order of files nor on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ckptgrow.data import tokenizers
from ckptgrow.data.directories import META
from ckptgrow.data.documents import Document, Remarks
from ckptgrow.data.inputs import Documents, InputPiece, expand, pieces
from ckptgrow.data.reading import documents_in
from ckptgrow.errors import CkptgrowError, DataError, RequestError, listing
from ckptgrow.ranges import check

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
BATCH = 512  # documents encoded at once
PARTS = ".parts"
TRAINED, TRAINING = "tokenizer", ".tokenizer"  # directories of a tokenizer trained here: done, and under way
COPY_BYTES = 2**24
Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings that the result depends on."""

    tokenizer: str
    special_tokens: tokenizers.SpecialTokens
    digest: str  # the tokenizer's
    val_fraction: float
    field: str
    documents: Documents


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was written: counts by split, and the sha256 of each token file."""

    out: Path
    tokenizer: str
    vocab_size: int
    dtype: str
    separator: int
    num_documents: dict[str, int]
    num_tokens: dict[str, int]
    sha256: dict[str, str]
    notes: tuple[str, ...] = ()  # what was left out


def silent(total: int) -> Advance:
    """Tells nobody of the progress."""
    return lambda amount: None


def prepare(
    inputs: Sequence[str],
    out: Path,
    *,
    tokenizer: str = tokenizers.BYTES,
    train_tokenizer: int | None = None,
    val_fraction: float = 0.05,
    field: str = "text",
    documents: Documents = "lines",
    special_tokens: tokenizers.SpecialTokens = "text",
    workers: int = 1,
    force: bool = False,
    progress: Callable[[int], Advance] = silent,
) -> Prepared:
    """Tokenizes inputs into `out`; an interrupted run with the same inputs and settings goes on where it was.

    `train_tokenizer`: trains a tokenizer with so many tokens on the inputs instead. `val_fraction`: the share of
    documents for validation. `field`: where records hold their text. `special_tokens`: whether special tokens that a
    text spells are "text" like any other, or tokens ("parse").

    Raises DataError for inputs that cannot be read, and RequestError for wrong settings or an `out` that holds prepared
    data. Neither leaves anything behind.
    """
    check("val_fraction", val_fraction)
    check("workers", workers)
    _check_free(out, force=force)
    work = pieces(expand(inputs), documents)
    recipe = Recipe(
        tokenizer=tokenizer if train_tokenizer is None else str(out / TRAINED),  # where it is in the end
        special_tokens=special_tokens,
        digest="",
        val_fraction=val_fraction,
        field=field,
        documents=documents,
    )
    with _given_back(out):
        if train_tokenizer is not None:
            texts = (one.text for piece in work for one in documents_in(piece, (field,), documents, Remarks()))
            tokenizers.train(texts, train_tokenizer, out / TRAINING)
        loaded = tokenizers.load(tokenizer if train_tokenizer is None else str(out / TRAINING), special_tokens)
        tokenizers.separator_of(loaded, recipe.tokenizer)
        recipe = replace(recipe, digest=loaded.digest)
        advance = progress(sum(_size(piece) for piece in work))
        parts = _parts_directory(out, recipe, work)
        done = _tokenized(work, parts, recipe, loaded, workers, advance)
        return _joined(out, parts, [counts for _, counts in done], recipe, loaded)


@contextmanager
def _given_back(out: Path) -> Generator[None]:
    """A directory to write to, made where it is not there; where the block fails, all of this is undone. What is kept
    for going on after an interruption stays after one alone.
    """
    missing = [one for one in (out, *out.parents) if not one.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as error:
        if isinstance(error, CkptgrowError):
            _clear(out)
        with suppress(OSError):  # another may write there, or there is something to go on from
            for directory in missing:
                directory.rmdir()
        raise
    _clear(out)


def _check_free(out: Path, *, force: bool) -> None:
    if (out / META).exists() and not force:
        raise RequestError(f"{out}: holds prepared data already; choose another directory, or pass ⟦force⟧")
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out}: is a file, expected the directory to write to, after all inputs")
    others = [name for name in (*(f"{split}.bin" for split in SPLITS), TRAINED) if (out / name).exists()]
    if others and not (out / META).exists() and not (out / PARTS).exists():
        raise RequestError(
            f"{out}: holds {listing(others)} that `ckptgrow data` has not written; choose another directory"
        )


def _clear(out: Path) -> None:
    """Removes everything that is only kept so that an interrupted run can go on."""
    for name in (PARTS, TRAINING):
        shutil.rmtree(out / name, ignore_errors=True)


def _dtype(tokenizer: tokenizers.Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)


def _size(piece: InputPiece) -> int:
    return (piece.path.stat().st_size if piece.stop is None else piece.stop) - piece.start


def _parts_directory(out: Path, recipe: Recipe, work: Sequence[InputPiece]) -> Path:
    """The directory for finished pieces, which are kept as long as inputs and settings stay the same."""
    described = [(str(one.path), one.start, one.stop, one.path.stat().st_mtime_ns) for one in work]
    key = hashlib.sha256(json.dumps([asdict(recipe), described]).encode()).hexdigest()[:16]
    parts = out / PARTS
    if parts.exists() and not (parts / key).exists():
        shutil.rmtree(parts)
    (parts / key).mkdir(parents=True, exist_ok=True)
    return parts / key


def _tokenized(
    work: Sequence[InputPiece],
    parts: Path,
    recipe: Recipe,
    tokenizer: tokenizers.Tokenizer,
    workers: int,
    advance: Advance,
) -> list[tuple[int, dict[str, Any]]]:
    tasks = [(number, piece, parts, recipe) for number, piece in enumerate(work)]
    found: list[tuple[int, dict[str, Any]]] = []
    if workers == 1:
        _begin(tokenizer)
        results: Iterator[tuple[int, dict[str, Any]]] = map(_tokenize, tasks)
        for number, counts in results:
            advance(_size(work[number]))
            found.append((number, counts))
        return found
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(tasks)), initializer=_begin, initargs=(tokenizer,)) as pool:
        for number, counts in pool.imap_unordered(_tokenize, tasks):
            advance(_size(work[number]))
            found.append((number, counts))
    return sorted(found, key=lambda one: one[0])


_worker: dict[str, tokenizers.Tokenizer] = {}  # this process's: sent once, not with every piece


def _begin(tokenizer: tokenizers.Tokenizer) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker["tokenizer"] = tokenizer


def _tokenize(task: tuple[int, InputPiece, Path, Recipe]) -> tuple[int, dict[str, Any]]:
    """Tokenizes one piece into one file for each split; the file of its counts, written last, marks it as done."""
    number, piece, parts, recipe = task
    marker = parts / f"{number}.json"
    if marker.exists():
        return number, json.loads(marker.read_text())
    tokenizer = _worker["tokenizer"]
    remarks, dtype = Remarks(), _dtype(tokenizer)
    counts: dict[str, Any] = {"documents": dict.fromkeys(SPLITS, 0), "tokens": dict.fromkeys(SPLITS, 0)}
    files = {split: (parts / f"{number}.{split}").open("wb") for split in SPLITS}
    try:
        documents = documents_in(piece, (recipe.field,), recipe.documents, remarks)
        while batch := list(islice(documents, BATCH)):
            for split, arrays in _encoded(batch, recipe, tokenizer, counts).items():
                if arrays:
                    np.concatenate(arrays, dtype=dtype, casting="unsafe").tofile(files[split])  # all ids fit
    finally:
        for file in files.values():
            file.close()
    counts["remarks"] = remarks.found
    temporary = marker.with_suffix(".tmp")
    temporary.write_text(json.dumps(counts))
    temporary.replace(marker)
    return number, counts


def _encoded(
    batch: Sequence[Document], recipe: Recipe, tokenizer: tokenizers.Tokenizer, counts: dict[str, Any]
) -> dict[Split, list[tokenizers.Ids]]:
    """The ids of each document with a separator, unless the text itself ends with one (where they are parsed)."""
    end = tokenizers.separator_of(tokenizer, recipe.tokenizer)
    separator = np.array([end], dtype=_dtype(tokenizer))
    found: dict[Split, list[tokenizers.Ids]] = {split: [] for split in SPLITS}
    for one, ids in zip(batch, tokenizers.encoded(tokenizer, batch), strict=True):
        split = _split_of(one.text, recipe.val_fraction)
        ended = not tokenizer.reserved and ids.size > 0 and ids[-1] == end
        found[split] += (ids,) if ended else (ids, separator)
        counts["documents"][split] += 1
        counts["tokens"][split] += len(ids) + (not ended)
    return found


def _split_of(text: str, val_fraction: float) -> Split:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") < val_fraction * 2**64 else "train"


def _joined(
    out: Path,
    parts: Path,
    counts: Sequence[dict[str, Any]],
    recipe: Recipe,
    tokenizer: tokenizers.Tokenizer,
) -> Prepared:
    documents = {split: sum(one["documents"][split] for one in counts) for split in SPLITS}
    tokens = {split: sum(one["tokens"][split] for one in counts) for split in SPLITS}
    if tokens["train"] == 0:
        raise DataError(f"{out}: no document is left for training, expected some text in the inputs")
    digests = {split: _join(out, parts, split, len(counts)) for split in SPLITS}
    remarks = Remarks()
    for one in counts:
        for sentence, (number, first) in one["remarks"].items():
            remarks.add(sentence, first, number)
    if (out / TRAINING).exists():
        shutil.rmtree(out / TRAINED, ignore_errors=True)
        (out / TRAINING).rename(out / TRAINED)
    separator = tokenizers.separator_of(tokenizer, recipe.tokenizer)
    result = Prepared(
        out=out,
        tokenizer=recipe.tokenizer,
        vocab_size=tokenizer.vocab_size,
        dtype=_dtype(tokenizer).name,
        separator=separator,
        num_documents=documents,
        num_tokens=tokens,
        sha256=digests,
        notes=remarks.notes(),
    )
    meta = {**asdict(result), "val_fraction": recipe.val_fraction, "special_tokens": recipe.special_tokens}
    del meta["out"], meta["notes"]
    temporary = out / f".{META}.tmp"
    temporary.write_text(json.dumps(meta, indent=2) + "\n")
    temporary.replace(out / META)
    return result


def _join(out: Path, parts: Path, split: Split, num_parts: int) -> str:
    digest = hashlib.sha256()
    with (out / f"{split}.bin").open("wb") as target:
        for number in range(num_parts):
            with (parts / f"{number}.{split}").open("rb") as source:
                while block := source.read(COPY_BYTES):
                    digest.update(block)
                    target.write(block)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()
