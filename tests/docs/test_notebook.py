"""The first tutorial as a notebook: what its page says, and it runs."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.paths import DOCS, ROOT

SCRIPT: dict[str, Any] = runpy.run_path(str(DOCS / "_notebook.py"))
NOTEBOOK: Path = SCRIPT["NOTEBOOK"]


def test_the_notebook_is_made_of_its_page() -> None:
    page = SCRIPT["PAGE"].read_text(encoding="utf-8")
    assert NOTEBOOK.read_text(encoding="utf-8") == SCRIPT["written"](page)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    shown = "".join(line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
    assert sum(line.startswith("ckptgrow ") for line in shown.splitlines()) == page.count("\nckptgrow ")
    assert not any("](" in line for cell in cells for line in cell["source"])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    program = tmp_path / "bin" / "ckptgrow"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ckptgrow "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    found.cells = [cell for cell in found.cells if not cell.source.startswith("%pip")]
    (tmp_path / "work").mkdir()
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    nbclient.NotebookClient(found, timeout=900, kernel_name="python3", resources=resources).execute()
    told = "".join(output.get("text", "") for cell in found.cells for output in cell.get("outputs", ()))
    assert "verified" in told and (tmp_path / "work" / "again.ckpt").exists()
