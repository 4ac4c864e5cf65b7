"""A document: its text, and its place for messages.

The same document is the same text in every format. Line ends at its end do not belong to it, a text of white space
alone is not a document, and text is Unicode (half a surrogate pair, which JSON can write, is not).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ckptgrow.errors import DataError

LINE_ENDS = "\r\n"
COUNT_BYTES = 2**24


class DocumentPlace(NamedTuple):
    """Where a document begins; its line is only counted when a message shows it."""

    path: Path
    unit: str = "line"  # or row, record; empty where the file is one document
    number: int = 1  # from 1 on, after the first `before` bytes
    before: int = 0

    def __str__(self) -> str:
        """The place as a message shows it, such as "a.txt line 3", counted from the beginning of the file."""
        if not self.unit:
            return str(self.path)
        return f"{self.path} {self.unit} {self.number + _line_ends(self.path, self.before)}"


class Document(NamedTuple):
    """One document: its text, not empty and without line ends at its end, and its place."""

    text: str
    place: DocumentPlace


@dataclass
class Remarks:
    """What a reader left out, for the user: how often, and where first."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])

    def add(self, sentence: str, where: object, number: int = 1) -> None:
        """Counts `number` more cases of a sentence, the first of them at `where`."""
        before, first = self.found.get(sentence, (0, str(where)))
        self.found[sentence] = (before + number, first)

    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of case."""
        return tuple(
            f"{first}: {sentence}" + (f" ({number} in all, this is the first)" if number > 1 else "")
            for sentence, (number, first) in self.found.items()
        )


MARK_LEFT_OUT = "a byte order mark at the beginning is left out"
NULL_LEFT_OUT = "has null instead of text; left out"


def document(text: str, place: DocumentPlace) -> Document | None:
    """The document with a text; None where it is empty. Raises DataError for text that is not Unicode."""
    text = text.rstrip(LINE_ENDS)
    if not text or text.isspace():
        return None
    if half := half_pair(text):
        raise DataError(f"{place}: holds {half}, half a surrogate pair, expected Unicode text; correct or remove it")
    return Document(text, place)


def half_pair(text: str) -> str | None:
    r"""The first half of a surrogate pair that stands alone, as JSON spells it; None in proper text.

    >>> half_pair("naïve"), half_pair("half \ud83d of one")
    (None, '\\ud83d')
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x}"
    return None


def decoded(data: bytes, where: object) -> str:
    """Decodes UTF-8; raises DataError, which names the place, for anything else."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 (byte {error.start}), expected UTF-8 text; convert the file") from error


def _line_ends(path: Path, size: int) -> int:
    """The number of line ends in the first `size` bytes of a file."""
    number = 0
    with path.open("rb") as file:
        while size > 0 and (data := file.read(min(size, COUNT_BYTES))):
            number += data.count(b"\n")
            size -= len(data)
    return number
