"""The first tutorial as a notebook, made of its page: text becomes text, commands become cells of bash.

`python docs/_notebook.py` writes it; a test compares it with the page, another one runs it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "tutorials" / "first-growth.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
MENTION = "\n\nThe same [as a notebook](first-growth.ipynb).\n"
BLOCK = re.compile(r"^```sh(?P<title>[^\n]*)\n(?P<commands>.*?)^```\n", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!http)[^)]+\)")


def cells(page: str) -> list[dict[str, Any]]:
    """A page's cells; links to other pages keep their text alone, for a notebook stands by itself."""
    page = page.replace(MENTION, "\n")
    found: list[dict[str, Any]] = []
    end = 0
    for block in BLOCK.finditer(page):
        found += _text(page[end : block.start()])
        is_installation = block["commands"].startswith("pip install")
        found.append(_cell("code", ("%" if is_installation else "%%bash\n") + block["commands"].rstrip()))
        end = block.end()
    return found + _text(page[end:])


def notebook(page: str) -> dict[str, Any]:
    """A notebook of version 4.5."""
    numbered = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells(page))]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": numbered, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def written(page: str) -> str:
    """The notebook's file."""
    return json.dumps(notebook(page), ensure_ascii=False, indent=1) + "\n"


def _text(markdown: str) -> list[dict[str, Any]]:
    text = LINK.sub(r"\1", markdown.strip())
    return [_cell("markdown", text)] if text else []


def _cell(kind: str, source: str) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True), **code}


if __name__ == "__main__":
    NOTEBOOK.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
