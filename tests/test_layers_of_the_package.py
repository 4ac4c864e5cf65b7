"""Arrows point down only: imports read from the syntax tree, against the order of the house."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import PACKAGE

# Each may import what stands in later rows; parts on one row do not import each other.
ROWS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("growth", "verification", "inspection", "conversion", "train", "evaluate", "planning"),
    ("data",),
    ("families",),
    ("spaces", "checkpoints"),
    ("errors",),
)
RANK = {part: rank for rank, row in enumerate(ROWS) for part in row}
HEAVY = {"torch", "transformers", "numpy", "lightning", "lm_eval", "scipy", "matplotlib", "rich", "tensorboard"}
ONLY_IMPORTER = {"lightning": "train", "lm_eval": "evaluate", "scipy": "planning", "matplotlib": "planning"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = part_of(path)
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        root, *others = name.split(".")
        if root == "ckptgrow" and others and others[0] != here:
            assert RANK[others[0]] > RANK[here], f"{here} imports {name}"
        if root in ONLY_IMPORTER and here != ONLY_IMPORTER[root]:
            pytest.fail(f"{here} imports {root}, which is {ONLY_IMPORTER[root]}'s alone")


@pytest.mark.parametrize("path", sorted((PACKAGE / "commands").glob("*.py")), ids=lambda path: path.stem)
def test_commands_import_nothing_heavy_when_they_load(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_load = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert not {name.split(".")[0] for name in imported(at_load)} & HEAVY


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_neither_prints_nor_exits(path: Path) -> None:
    if part_of(path) in ("cli", "commands", "__main__"):
        return
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [one for one in calls if isinstance(one, ast.Name) and one.id in ("print", "exit")]
    assert not [one for one in calls if isinstance(one, ast.Attribute) and ast.unparse(one) == "sys.exit"]
