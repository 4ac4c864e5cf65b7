"""What the page on planning shows is what its commands say, typed one after the other in a clone."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from ckptgrow.cli import run
from tests.helpers.paths import DOCS, ROOT

PAGE = (DOCS / "how-to" / "plan.md").read_text(encoding="utf-8")
OF_RUNS = "ckptgrow plan show"  # of one's own trainings


def test_the_pages_commands_say_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for block, shown in re.findall(r"^```sh\n(.*?)^```\n(?:^```\n(.*?)^```)?", PAGE, re.DOTALL | re.MULTILINE):
        for line in re.split(r"\n| && ", block.strip()):
            words = shlex.split(line, comments=True)
            if words[0] == "cp":
                shutil.copy(ROOT / words[1], words[2])
            elif not line.startswith(OF_RUNS):
                assert run(words[1:]) == 0, line
        said = capsys.readouterr().out
        for sentence in re.findall(r"^[A-Za-z0-9].*[.%a-z]$", shown, re.MULTILINE):
            assert _plain(sentence) in _plain(said), sentence


def _plain(text: str) -> str:
    """Without the spaces by which tables are drawn."""
    return re.sub(r"[\s│┃]+", " ", text)
