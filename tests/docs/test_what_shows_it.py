"""The page of claims names tests and programs that are there."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.helpers.paths import DOCS, ROOT

PAGE = DOCS / "explanation" / "what-shows-it.md"
SHOWN = re.findall(r"\| `([^`]*)`(?:, [^|]*)? \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
OPTIONS = re.compile(r'add_argument\(\s*"(--[a-z-]+)"(?:, "(--[a-z-]+)")?')


def test_every_row_of_the_tables_has_a_command() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(SHOWN) == len([one for one in rows if not one.startswith(("| claim", "| ---"))]) > 30


@pytest.mark.parametrize("command", SHOWN)
def test_what_shows_a_claim_is_there(command: str) -> None:
    words = [one for one in shlex.split(command) if "=" not in one or one.startswith("-")]
    if words[0] == "pytest":
        for place in (one for one in words if one.startswith("tests/")):
            path, _, name = place.partition("::")
            assert (ROOT / path).exists(), place
            assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), place
        return
    assert words[0] == "python"
    file = words[2].replace(".", "/") if words[1] == "-m" else words[1]
    places = [ROOT / file] if file.endswith(".py") else [ROOT / f"{file}.py", ROOT / file / "__main__.py"]
    (program,) = [one for one in places if one.exists()]
    known = {name for pair in OPTIONS.findall(program.read_text(encoding="utf-8")) for name in pair}
    assert {one for one in words[2:] if one.startswith("--")} <= known
