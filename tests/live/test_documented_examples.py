"""The README's programs, as they stand there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.helpers.paths import ROOT


def program_with(words: str) -> str:
    """The README's only block of Python with some words in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if words in block)
    return found


def test_a_program_grows_what_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(program_with("ckptgrow.grow("), names)
    assert names["model"].config.n_embd == 128 and names["scheduler"].optimizer is names["optimizer"]
    assert len(names["optimizer"].state) == len(list(names["model"].parameters()))
    assert "'residual': 128" in capsys.readouterr().out
