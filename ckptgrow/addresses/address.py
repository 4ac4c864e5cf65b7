"""Which words are addresses, and the path on this machine where what they name lies."""

from __future__ import annotations

import re
from pathlib import Path

from ckptgrow.addresses.hub import NAME, SCHEME, HubAddress, fetched
from ckptgrow.errors import RequestError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+.*")
PAGE = re.compile(r"https?://(?:www\.)?huggingface\.co/(?P<name>[^/]+/[^/]+?)(?:/tree/(?P<revision>[^/]+))?/?")


def typed(path: str | Path) -> str:
    """The words behind a path: of an address, a path keeps one slash of two."""
    words = str(path)
    return re.sub(r":/+", "://", words, count=1) if ADDRESS.fullmatch(words) else words


def local_path(source: str | Path) -> Path:
    """The path of a checkpoint, fetched where an address names it; raises RequestError where it cannot be."""
    words = typed(source)
    if not ADDRESS.fullmatch(words):
        return Path(source)
    page = PAGE.fullmatch(words)
    if page is not None:
        return fetched(HubAddress(page["name"], page["revision"]), words)
    if words.startswith(SCHEME):
        return fetched(HubAddress.of(words), words)
    raise RequestError(f"{words}: is an address, expected hf://OWNER/NAME or a path; download it first")


def of_bare_name(words: str) -> Path | None:
    """The directory of a model on the hub by its bare name; None where no model can have that name."""
    return fetched(HubAddress(words), words) if NAME.fullmatch(words) and not Path(words).suffix else None
