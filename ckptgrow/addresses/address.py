"""Which words are addresses, and the path on this machine where what they name lies."""

from __future__ import annotations

import re
from pathlib import Path

from ckptgrow.addresses.hub import NAME, SCHEME, HubAddress, fetched
from ckptgrow.addresses.remote_files import as_typed, exists, standing_in
from ckptgrow.errors import RequestError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+.*")
PAGE = re.compile(r"https?://(?:www\.)?huggingface\.co/(?P<name>[^/]+/[^/]+?)(?:/tree/(?P<revision>[^/]+))?/?")


def is_address(path: str | Path) -> bool:
    """Whether a path is the words of an address."""
    return ADDRESS.fullmatch(str(path)) is not None


def typed(path: str | Path) -> str:
    """The words behind a path: of an address, a path keeps one slash of two, and something here stands in for it."""
    words = as_typed(str(path))
    return re.sub(r":/+", "://", words, count=1) if is_address(words) else words


def local_path(source: str | Path) -> Path:
    """The path of a checkpoint, fetched where an address names it; raises RequestError where it cannot be."""
    if not is_address(source):
        return source if isinstance(source, Path) else Path(source)
    words = typed(source)
    page = PAGE.fullmatch(words)
    if page is not None:
        return fetched(HubAddress(page["name"], page["revision"]), words)
    if words.startswith(SCHEME):
        return fetched(HubAddress.of(words), words)
    if words.startswith(("http://", "https://")):
        raise RequestError(f"{words}: is a page, expected hf://OWNER/NAME, an address as s3://BUCKET/KEY, or a path")
    return standing_in(words)


def check_address(target: Path, *, force: bool) -> None:
    """Raises RequestError where nothing can be written to an address, or, without `force`, something lies there."""
    words = typed(target)
    if words.startswith((SCHEME, "http://", "https://")):
        raise RequestError(f"{words}: can be read alone, expected a path or an address as s3://BUCKET/KEY to write to")
    if exists(words) and not force:
        raise RequestError(f"{words}: exists already; choose another address, or pass ⟦force⟧ to replace it")


def of_bare_name(words: str) -> Path | None:
    """The directory of a model on the hub by its bare name; None where no model can have that name."""
    return fetched(HubAddress(words), words) if NAME.fullmatch(words) and not Path(words).suffix else None
