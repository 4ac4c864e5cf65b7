"""What tests share is in `tests/helpers`: a test module that imports another one runs, and breaks, with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

TESTS = ROOT / "tests"
MODULES = sorted(TESTS.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it they stand."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_module_imports_a_test_module(path: Path) -> None:
    names = [name for name in imported(path) if name.startswith((".", "tests."))]
    parts = [part for name in names for part in name.split(".")]
    assert not [part for part in parts if part.startswith("test_") or part == "conftest"]


def test_helpers_import_helpers_alone() -> None:
    names = [name for path in MODULES if path.parent.name == "helpers" for name in imported(path)]
    of_tests = [name for name in names if name.startswith("tests.")]
    assert of_tests and all(name.startswith("tests.helpers.") for name in of_tests)


def test_the_check_sees_imports_inside_functions_and_relative_ones(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f():\n    from tests.core.test_width import g\nfrom . import test_depth\n")
    assert list(imported(tmp_path / "module.py")) == ["..test_depth", "tests.core.test_width.g"]
