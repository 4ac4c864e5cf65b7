"""Tokens of a local file or a known data set: encoded here, or memory-mapped as `ckptgrow data` wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ckptgrow.addresses.hub import take_cached_data_where_silent
from ckptgrow.choices import HubData
from ckptgrow.data.documents import Document, DocumentPlace, Remarks
from ckptgrow.data.inputs import InputPiece
from ckptgrow.data.reading import documents_in
from ckptgrow.data.tokenizers import encoded, separator_of
from ckptgrow.errors import DataError, RequestError
from ckptgrow.evaluate.files import Text, is_plain, read_plain, read_records
from ckptgrow.evaluate.quiet import quiet
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.tokenizer import read_meta

MEMORY_MAPPED = ".bin"
BATCH = 512  # documents encoded at once
# The data sets of the paper's tables: name on the hub, its configuration, the rows that are its test part.
HUB: Mapping[HubData, tuple[str, str | None]] = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "openwebtext": ("Skylion007/openwebtext", None),
}
OPENWEBTEXT_SHARE, OPENWEBTEXT_SEED = 0.01, 17  # the script's own test part of a data set that has none


class Tokens(Protocol):
    """Token ids in memory or on disk."""

    def __len__(self) -> int:
        """The number of tokens."""
        ...

    def __getitem__(self, span: slice, /) -> Any:
        """The tokens of a range."""
        ...


def is_memory_mapped(path: Path) -> bool:
    """Whether a file's name says that it holds token ids."""
    return path.suffix == MEMORY_MAPPED


def map_tokens(path: Path) -> Tokens:
    """The ids in a `.bin`, in the dtype that meta.json beside it says, without one uint16 as in the script.

    Raises DataError where the file's size is not a multiple of the dtype's.
    """
    meta = path.parent / "meta.json"
    name = str(read_meta(meta).get("dtype", "uint16")) if meta.is_file() else "uint16"
    if name not in ("uint16", "uint32"):
        raise DataError(f"{meta}: dtype {name}, expected uint16 or uint32")
    dtype = np.dtype(name)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected tokens") from error
    if size == 0 or size % dtype.itemsize:
        raise DataError(f"{path}: has {size} bytes, expected a multiple of {dtype.itemsize} ({name} tokens)")
    return np.memmap(path, mode="r", dtype=dtype)


def text_tokens(path: Path, subject: Subject, remarks: Remarks | None = None) -> Tokens:
    """The tokens of a text as one document, or of JSON lines, parquet or TFRecord as `ckptgrow data` makes them.

    Documents of the latter end with the separator; nothing else is added. What is left out is added to `remarks`.
    """
    tokenizer = subject.encoder
    if is_plain(path):
        whole = Document("\n".join([one.text for one in read_plain(path)] + [""]), DocumentPlace(path, ""))
        return encoded(tokenizer, [whole])[0]
    end = separator_of(tokenizer, subject.tokenizer_name)
    documents = documents_in(InputPiece(path), ("text", "page"), "files", Remarks() if remarks is None else remarks)
    ids: list[Any] = []
    while batch := list(islice(documents, BATCH)):
        ids += [np.append(one, end) for one in encoded(tokenizer, batch)]
    if not ids:
        raise DataError(f"{path}: has no documents, expected some text")
    return np.concatenate(ids)


def file_rows(path: Path, subject: Subject) -> list[list[int]]:
    """The tokens of a file's rows as in the script: lines with their ends, blank lines empty, each encoded alone."""
    if is_plain(path):
        texts = [Text(one.line, f"{one.text}\n" if one.text.strip() else "") for one in read_plain(path)]
    else:
        texts = read_records(path, ("text",))[1]
    return _encoded(texts, path, subject)


def hub_rows(name: HubData, subject: Subject) -> list[list[int]]:
    """The tokens of the rows in a data set's test part; raises DataError where it cannot be loaded."""
    take_cached_data_where_silent()
    import datasets

    if name not in HUB:
        raise RequestError(f"⟦dataset {name}⟧: expected {', '.join(HUB)}")
    repository, configuration = HUB[name]
    try:
        with quiet():
            if name == "openwebtext":
                whole = datasets.load_dataset(repository, split="train")
                rows = whole.train_test_split(test_size=OPENWEBTEXT_SHARE, seed=OPENWEBTEXT_SEED)["test"]
            else:
                rows = datasets.load_dataset(repository, configuration, split="test")
    except (ConnectionError, OSError, ValueError) as error:
        raise DataError(
            f"⟦dataset {name}⟧: {repository} is neither in the cache nor to be downloaded "
            f"({str(error).splitlines()[0]}); download it where there is a network, or pass a file with ⟦data⟧"
        ) from error
    return _encoded([Text(number, text) for number, text in enumerate(rows["text"], start=1)], Path(name), subject)


def end_token(subject: Subject) -> int:
    """The id that ends documents; raises RequestError where the tokenizer has none."""
    end = subject.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise RequestError(f"⟦tokenizer {subject.tokenizer_name}⟧: has no end-of-text token, expected one")
    return end


def _encoded(texts: Sequence[Text], where: Path, subject: Subject) -> list[list[int]]:
    rows = [Document(one.text, DocumentPlace(where, number=one.line)) for one in texts]
    return [ids.tolist() for ids in encoded(subject.encoder, rows)]
