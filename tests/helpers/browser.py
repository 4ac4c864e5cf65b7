"""A headless Chromium over its debugging pipe (file descriptors 3 and 4): opens a page and tells what a person sees."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
FIRST_FREE = 10  # beyond 3 and 4, which the browser takes
IMAGES = """JSON.stringify({
  images: [...document.images].map(one => {
    const box = one.getBoundingClientRect();
    return {name: one.alt, pixels: one.naturalWidth, width: box.width, height: box.height,
            left: box.left, right: box.right, shown: getComputedStyle(one).visibility};
  }),
  width: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  text: document.body.innerText,
})"""


@dataclass(frozen=True)
class Seen:
    """A page as it is laid out: its images' boxes in pixels, its own size, its text; what the console and the log said
    of errors and warnings, every address that was asked for, and a picture of all of it (PNG).
    """

    layout: dict[str, Any]
    said: list[str]
    addresses: list[str]
    picture: bytes


class Browser:
    """Chromium, until `close`."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        reading, self._to = os.pipe()
        self._from, writing = os.pipe()
        theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, FIRST_FREE) for one in (reading, writing)]
        arguments = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-background-networking"),
            *("--disable-component-update", "--disable-extensions", "--hide-scrollbars", "about:blank"),
        ]

        # the pipe's ends must be 3 and 4 there; the shell moves them without running Python after a fork
        moved = f'exec 3<&{theirs[0]} 4>&{theirs[1]}; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, BROWSER, *arguments],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for one in (reading, writing, *theirs):
            os.close(one)
        self._number, self._buffer, self._session = 0, b"", ""
        self._events: list[dict[str, Any]] = []

    def see(self, page: Path | str, width: int, height: int = 900) -> Seen:
        """Opens a file, or an address, in a window of so many pixels."""
        address = page if isinstance(page, str) else page.resolve().as_uri()
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._events = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Page.navigate", url=address)
        while not any(one["method"] == "Page.loadEventFired" for one in self._events):
            self._take()
        layout = json.loads(self._ask("Runtime.evaluate", expression=IMAGES)["result"]["value"])
        whole = {"x": 0, "y": 0, "width": width, "height": layout["height"], "scale": 1}
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=whole)
        seen = Seen(layout, self._said(), self._addresses(), base64.b64decode(shot["data"]))
        self._session = ""
        self._ask("Target.closeTarget", targetId=target)
        return seen

    def close(self) -> None:
        """Ends it."""
        os.close(self._to)
        self._process.terminate()
        self._process.wait()
        os.close(self._from)

    def _said(self) -> list[str]:
        found: list[str] = []
        for one in self._events:
            if one["method"] == "Log.entryAdded" and one["params"]["entry"]["level"] in ("error", "warning"):
                found.append(one["params"]["entry"]["text"])
            if one["method"] == "Runtime.exceptionThrown":
                found.append(str(one["params"]["exceptionDetails"]))
            if one["method"] == "Runtime.consoleAPICalled":
                found.append(str(one["params"]))
        return found

    def _addresses(self) -> list[str]:
        asked = [one for one in self._events if one["method"] == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in asked]

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _take(self) -> dict[str, Any]:
        """The next message; events are kept."""
        while b"\0" not in self._buffer:
            part = os.read(self._from, 2**20)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
        return message
