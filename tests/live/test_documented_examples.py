"""The documentation's programs, as they stand there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.paths import DOCS


def program_with(words: str) -> str:
    """The page's only block of Python with some words in it."""
    blocks = re.findall(
        r"```python\n(.*?)```", (DOCS / "how-to" / "in-memory.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (found,) = (block for block in blocks if words in block)
    return found


def test_a_program_grows_what_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(program_with("ckptgrow.grow(model, optimizer, scheduler"), names)
    assert names["model"].config.n_embd == 128 and names["scheduler"].optimizer is names["optimizer"]
    assert len(names["optimizer"].state) == len(list(names["model"].parameters()))
    assert "'residual': 128" in capsys.readouterr().out


def test_a_program_lets_the_rates_rise_again(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(program_with("rise.state_dict()"), names)
    assert capsys.readouterr().out == "0.01\n" and names["saved"] == {"steps": 100, "done": 0}


@pytest.mark.parametrize(
    ("words", "grown"), [("LightningGrowthCallback(", "'residual': 128"), ("Trainer(model", "'layers': 4")]
)
def test_trainers_grow_what_they_train(
    words: str, grown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainers', of loggers, workers and memory
        exec(program_with(words), {"__name__": "program"})
    assert grown in capsys.readouterr().out
