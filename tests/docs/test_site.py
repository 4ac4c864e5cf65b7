"""The site as people meet it: every page in a real browser, on a desk's screen and a telephone's, and every link."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.browser import BROWSER, Browser
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

IN_VIEW = 2  # pixels that rounding may add to a page's width


class Page(HTMLParser):
    """What a page refers to, and the places in it that others can refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.references += [one for name in ("href", "src") if (one := values.get(name)) is not None]
        self.places |= {one for name in ("id", "name") if (one := values.get(name)) is not None}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    directory = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and does not tell of it."""

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture(scope="module")
def address(site: Path) -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def pages_of(site: Path) -> list[Path]:
    return sorted(site.rglob("index.html"))


def test_every_link_leads_somewhere_also_within_pages(site: Path) -> None:
    parsed = {page: Page(page.read_text(encoding="utf-8")) for page in pages_of(site)}
    broken: list[str] = []
    for page, found in parsed.items():
        for reference in found.references:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc or reference in ("", "#", "javascript:void(0)"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target = target / "index.html"
            is_there = target.exists() and (
                not parts.fragment or target not in parsed or unquote(parts.fragment) in parsed[target].places
            )
            if not is_there:
                broken.append(f"{page.relative_to(site)}: {reference}")
    assert len(parsed) >= 30 and broken == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path (apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 400])
def test_every_page_is_whole_in_a_browser(site: Path, address: str, width: int, tmp_path: Path) -> None:
    browser = Browser(tmp_path / "profile")
    wrong: list[str] = []
    try:
        for page in pages_of(site):
            place = page.parent.relative_to(site).as_posix()
            seen = browser.see(address if place == "." else f"{address}{place}/", width)
            wrong += [f"{place}: {one}" for one in seen.said]
            wrong += [f"{place}: asks {one}" for one in seen.addresses if not one.startswith((address, "data:"))]
            wrong += [f"{place}: no picture {one}" for one in seen.layout["images"] if not one["pixels"]]
            if seen.layout["width"] > width + IN_VIEW:
                wrong.append(f"{place}: is {seen.layout['width']} pixels wide in a window of {width}")
            if shown := os.environ.get("CKPTGROW_PICTURES"):
                Path(shown).mkdir(parents=True, exist_ok=True)
                Path(shown, f"{place.strip('.').replace('/', '-') or 'index'}-{width}.png").write_bytes(seen.picture)
    finally:
        browser.close()
    assert wrong == []
