"""How the package's values are made: what has many fields is made by their names."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ckptgrow

PACKAGE = Path(ckptgrow.__file__).parent
MOST_IN_ORDER = 4  # fields that a reader of a call can tell apart without their names
MOST_LINES, MOST_PARAMETERS = 40, 6
OPTION_LISTS = {  # what users call: each option by its name, with its type and its default
    "conversion/converting.py: convert",
    "data/preparation.py: prepare",
    "growth/deepening.py: depth",
    "growth/upcycling.py: experts",
    "growth/vocabulary.py: vocab",
    "growth/widening.py: width",
    "live/live_growth.py: grow",
}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of the package, with where it stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(PACKAGE)}: {node.name}", node


def parameters(node: ast.FunctionDef) -> list[str]:
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one.arg for one in named if one.arg not in ("self", "cls")]


def dataclasses() -> Iterator[tuple[str, ast.ClassDef, ast.expr]]:
    """Every dataclass of the package: where it stands, its definition and its decorator."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for decorator in node.decorator_list:
                    if ast.unparse(decorator).partition("(")[0] in ("dataclass", "dataclasses.dataclass"):
                        yield f"{path.relative_to(PACKAGE)}: {node.name}", node, decorator


def num_fields(node: ast.ClassDef) -> int:
    return sum(isinstance(one, ast.AnnAssign) and "ClassVar" not in ast.unparse(one.annotation) for one in node.body)


def test_dataclasses_of_many_fields_are_made_by_their_names() -> None:
    found = list(dataclasses())
    many = [(where, decorator) for where, node, decorator in found if num_fields(node) > MOST_IN_ORDER]
    assert len(found) > 100 and len(many) > 50
    assert [where for where, decorator in many if "kw_only=True" not in ast.unparse(decorator)] == []


def test_no_class_has_the_name_of_another() -> None:
    counted = Counter(
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in counted.items() if count > 1} == set()


def test_functions_can_be_read_at_once() -> None:
    """Commands are lists of options, and so is what users call from Python; their bodies are short all the same."""
    long: list[str] = []
    for where, node in functions():
        assert node.end_lineno is not None
        lists_options = len(parameters(node)) > MOST_PARAMETERS or bool(node.decorator_list)
        is_command = where.startswith("commands/") and lists_options
        begin = node.body[0].lineno if where in OPTION_LISTS else node.lineno
        if node.end_lineno - begin + 1 > MOST_LINES and not is_command:
            long.append(where)
    assert long == []


def test_functions_have_few_parameters() -> None:
    wide = [(where, node) for where, node in functions() if len(parameters(node)) > MOST_PARAMETERS]
    outside = [(where, node) for where, node in wide if not where.startswith("commands/")]
    assert {where for where, _ in outside} == OPTION_LISTS
    for where, node in outside:
        assert len(node.args.args) <= 3, f"{where}: its options are given by their names"
