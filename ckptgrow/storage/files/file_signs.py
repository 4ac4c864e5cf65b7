"""What a file is, told by how it begins, so that an output replaces nothing but its like."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ckptgrow.errors import RequestError

BEGINNING = 2**16  # bytes that are looked at
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number at the head of what torch before 1.6 saved


@dataclass(frozen=True)
class FileKind:
    """A kind of files: what it is called, and whether a beginning is one of its."""

    name: str
    begins: Callable[[bytes], bool]


Kinds: TypeAlias = Mapping[str, FileKind]  # by the endings of their names


def _is_archive(beginning: bytes) -> bool:
    """Whether a zip file begins with the pickle that torch.save writes first, or a file is one of old versions."""
    name = beginning[30 : 30 + int.from_bytes(beginning[26:28], "little")]
    return beginning.startswith(LEGACY) or (beginning.startswith(b"PK\x03\x04") and name.endswith(b"/data.pkl"))


def with_key(name: str, key: str) -> FileKind:
    """YAML or JSON whose mapping has a key near its begin."""
    pattern = re.compile(rf'^[ {{"]*{key}"?\s*:'.encode(), re.MULTILINE)
    return FileKind(name, lambda beginning: pattern.search(beginning) is not None)


def _is_page(beginning: bytes) -> bool:
    return beginning.lstrip().lower().startswith((b"<!doctype html", b"<html"))


ARCHIVE = FileKind("a file of torch.save", _is_archive)
SAMPLE_LINES = FileKind("an evaluation's samples", lambda beginning: beginning.startswith(b'{"checkpoint"'))
SAMPLES: Kinds = dict.fromkeys((".jsonl", ".json"), SAMPLE_LINES)
TABLES: Kinds = {
    ".py": FileKind("a family's table", lambda beginning: re.search(rb"^FAMILY\b", beginning, re.MULTILINE) is not None)
}
PLANS: Kinds = dict.fromkeys((".yaml", ".yml"), with_key("a plan", "stages"))
LAWS: Kinds = dict.fromkeys((".yaml", ".yml", ".json"), with_key("a law", "size_exponent"))
CONFIGS: Kinds = {".json": with_key("a config", "(architectures|model_type|transformers_version)")}
PAGES: Kinds = dict.fromkeys((".html", ".htm"), FileKind("an HTML page", _is_page))
PICTURES: Kinds = {
    ".png": FileKind("a PNG picture", lambda beginning: beginning.startswith(b"\x89PNG\r\n")),
    ".pdf": FileKind("a PDF", lambda beginning: beginning.startswith(b"%PDF")),
    ".svg": FileKind("an SVG picture", lambda beginning: b"<svg" in beginning),
}


def check_replaceable(target: Path, kind: FileKind) -> None:
    """Raises RequestError where something is at `target` that is neither empty nor of a kind."""
    if not target.exists():
        return
    if not target.is_file():
        found = "is a directory" if target.is_dir() else "is no plain file"
        raise RequestError(f"{target}: {found}, expected a name for {kind.name}; choose another one")
    with target.open("rb") as file:
        beginning = file.read(BEGINNING)
    if beginning and not kind.begins(beginning):
        raise RequestError(
            f"{target}: holds something else than {kind.name}, which alone is replaced; choose another name, or move "
            "the file away"
        )
