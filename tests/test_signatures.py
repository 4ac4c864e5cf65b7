"""How the package's values are made: what has many fields is made by their names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ckptgrow

PACKAGE = Path(ckptgrow.__file__).parent
MOST_IN_ORDER = 4  # fields that a reader of a call can tell apart without their names


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
