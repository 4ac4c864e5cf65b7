"""Local files as the documents of lm-eval's tasks: LAMBADA's passages, WikiText's pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptgrow.errors import DataError
from ckptgrow.evaluate.files import Text, is_plain, read_plain, read_records

if TYPE_CHECKING:
    import datasets

TOP_HEADING = re.compile(r"\s*= (?!= ).*(?<! =) =\s*")  # " = Title = ", and not " = = Section = = "


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The documents of a file, the task's field in which they stand, and notes for the user."""

    where: str
    field: str
    texts: tuple[Text, ...]
    notes: tuple[str, ...] = ()
    harness_notes: tuple[str, ...] = ()  # of what only lm-eval does with them


def passages(path: Path) -> Documents:
    """LAMBADA's passages: JSON lines or parquet with `text`, or plain text with one passage on each line.

    Notes tell of empty lines between records, which are left out, and of passages that lm-eval scores in an unexpected
    way: those of one word (which have no context) and those with white space at their end (whose last word is empty).
    Raises DataError, which names the line, for an empty passage.
    """
    if is_plain(path):
        lines = read_plain(path)
        texts = [one for one in lines if one.text.strip()]
        num_empty = len(lines) - len(texts)
    else:
        _, texts, num_empty = read_records(path, ("text",))
    for one in texts:
        if not one.text.strip():
            raise DataError(f"{path}: line {one.line}: the text is empty, expected a passage")
    one_word = [one for one in texts if " " not in one.text]
    open_ended = [one for one in texts if one.text != one.text.rstrip()]
    return Documents(
        where=str(path),
        field="text",
        texts=tuple(texts),
        notes=_notes(path, (num_empty, "empty line{s} left out")),
        harness_notes=_notes(
            path,
            (len(one_word), "passage{s} of one word (first: line {line}), scored without a context", one_word),
            (
                len(open_ended),
                "passage{s} ending in white space (first: line {line}), the last word empty",
                open_ended,
            ),
        ),
    )


def pages(path: Path) -> Documents:
    """WikiText's pages: text in its own layout, or JSON lines or parquet with `page` (whole pages) or `text` (lines).

    A page begins at each heading of the first level (" = Title = "), as in lm-eval's data set; a text without headings
    is one page. Raises DataError, which names the line, for an empty page.
    """
    if is_plain(path):
        return Documents(where=str(path), field="page", texts=tuple(_split(read_plain(path))))
    field, rows, num_empty = read_records(path, ("page", "text"))
    if field == "text":
        # these rows keep their line's end; " \n" between paragraphs became ""
        return Documents(
            where=str(path),
            field="page",
            texts=tuple(_split([Text(row.line, row.text.removesuffix("\n") or " ") for row in rows])),
        )
    for page in rows:
        if not page.text.strip():
            raise DataError(f"{path}: line {page.line}: the page is empty, expected text")
    return Documents(
        where=str(path), field="page", texts=tuple(rows), notes=_notes(path, (num_empty, "empty line{s} left out"))
    )


READERS: Mapping[str, Callable[[Path], Documents]] = {
    "lambada_openai": passages,
    "lambada_standard": passages,
    "wikitext": pages,
}


def local_dataset(task: str, path: str, **_: object) -> datasets.DatasetDict:
    """The documents of a local file as the `test` split; lm-eval calls this for a task with such a file."""
    import datasets

    documents = READERS[task](Path(path))
    rows = [{documents.field: one.text, "line": one.line} for one in documents.texts]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})


def _split(lines: Sequence[Text]) -> list[Text]:
    pages: list[list[Text]] = [[]]
    for line in lines:
        if TOP_HEADING.fullmatch(line.text):
            pages.append([])
        pages[-1].append(line)
    return [
        Text(page[0].line, "\n".join(line.text for line in page))
        for page in pages
        if any(line.text.strip() for line in page)
    ]


def _notes(path: Path, *counts: tuple[int, str] | tuple[int, str, Sequence[Text]]) -> tuple[str, ...]:
    """A sentence for each count that is not 0: the number, what was counted, and the first line where it is given."""
    return tuple(
        f"{path}: {number} " + sentence.format(s="" if number == 1 else "s", line=which[0][0].line if which else 0)
        for number, sentence, *which in counts
        if number
    )
