"""A loop of one's own with torch.save, as its page shows it: saved, grown, verified, and gone on with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from ckptgrow.cli import run
from tests.helpers.paths import DOCS

PAGE = (DOCS / "how-to" / "own-scripts.md").read_text(encoding="utf-8").partition("## Out of a Lightning file")[0]
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_a_loop_of_ones_own_grows_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert [kind for kind, _ in BLOCKS] == ["python", "sh", "python"]
    left: dict[str, object] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(text, left := {})
        for line in text.splitlines() if kind == "sh" else ():
            assert run(shlex.split(line, comments=True)[1:]) == 0, line
    said = capsys.readouterr().out
    assert "the optimizer has a group for each learning rate now (1 → 3)" in said
    assert "ckptgrow.train.parameter_groups(model, checkpoint)" in said and "verified" in said
    optimizer = left["optimizer"]
    assert isinstance(optimizer, torch.optim.AdamW) and len(optimizer.param_groups) == 3
    assert all(int(record["step"]) == 10 for record in optimizer.state.values())
