"""The rooms of the package, the arrows between them, and the map that CONTRIBUTING.md shows.

python -m tests.package_map            prints the map
python -m tests.package_map --write    puts it into CONTRIBUTING.md
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.helpers.paths import PACKAGE, ROOT

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- map -->", "<!-- /map -->"

# Each room may import what stands on later rows; rooms on one row do not import each other. `ckptgrow` is the package's
# own `__init__`, which gives names of many rooms to whoever uses the package, and to no room.
ROWS = (
    ("__main__",),
    ("cli", "ckptgrow"),
    ("commands",),
    ("report", "demo"),
    ("run",),
    ("probe",),
    ("recipes",),
    ("train",),
    ("live", "drafting"),
    ("growth", "verification", "evaluate", "planning", "conversion", "inspection"),
    ("state",),
    ("families", "formats", "dialects"),
    ("storage", "data"),
    ("spaces", "ranges", "distributed", "addresses"),
    ("choices", "errors", "progress", "version"),
)
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}


def module_name(path: Path) -> str:
    """A file's dotted name; a package's for its `__init__`."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES: Mapping[str, Path] = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The room that a module belongs to: its folder or file right below the package."""
    return module.split(".")[1] if "." in module else module


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """The dotted names that a module's code imports, wherever it does: at its head, in a function, for the type checker
    alone, relatively, out of a package's `__init__`, or by a text that `import_module` is given.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES:
            if "." in node.value:  # `ckptgrow` alone is also a key of checkpoints, and the program's name
                yield node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (one.value for one in node.args if isinstance(one, ast.Constant) and one.value == "ckptgrow")


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return str(node.module)
    is_package = module in MODULES and MODULES[module].name == "__init__.py"
    parts = module.split(".")
    above = parts[: len(parts) - node.level + is_package]
    return ".".join([*above, *([node.module] if node.module else [])])


def own_modules(names: Iterator[str]) -> frozenset[str]:
    """The modules of this package among dotted names. What is no module is an attribute of the one before it, and a
    name out of an `__init__` counts as that `__init__`: `from ckptgrow import width` points at the package itself.
    """
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "ckptgrow":
            prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            found.add(next(prefix for prefix in prefixes if prefix in MODULES))
    return frozenset(found)


def parsed(module: str) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def module_graph() -> dict[str, frozenset[str]]:
    """What each module imports of the package."""
    return {module: own_modules(imported(parsed(module), module)) - {module} for module in MODULES}


def arrows(graph: Mapping[str, frozenset[str]]) -> dict[str, set[str]]:
    """What each room imports of the others."""
    found: dict[str, set[str]] = {room: set() for row in ROWS for room in row}
    for module, others in graph.items():
        found[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    return found


def drawn() -> str:
    """The map: a picture of the arrows without those that follow from others, and a table with all of them."""
    rooms = arrows(module_graph())
    lines = ["```mermaid", "flowchart TD"]
    for room in rooms:
        lines += [f"  {_id(room)}[{_shown(room)}] --> {_id(other)}[{_shown(other)}]" for other in _direct(room, rooms)]
    lines += ["```", "", "| room | what it is | imports |", "| --- | --- | --- |"]
    for row in ROWS:
        for room in row:
            others = ", ".join(f"`{other}`" for other in sorted(rooms[room], key=lambda one: (RANK[one], one)))
            lines.append(f"| `{_shown(room)}` | {_head(room)} | {others or '–'} |")
    return "\n".join(lines)


def _direct(room: str, rooms: Mapping[str, set[str]]) -> list[str]:
    """The rooms that it imports and that none of its other rooms leads to."""
    led_to = set[str]().union(*(_below(other, rooms) for other in rooms[room]))
    return sorted(rooms[room] - led_to, key=lambda one: (RANK[one], one))


def _below(room: str, rooms: Mapping[str, set[str]]) -> set[str]:
    return rooms[room].union(*(_below(other, rooms) for other in rooms[room]))


def _id(room: str) -> str:
    return room.strip("_")


def _shown(room: str) -> str:
    if room == "ckptgrow":
        return "__init__.py"
    return f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"


def _head(room: str) -> str:
    text = ast.get_docstring(parsed("ckptgrow" if room == "ckptgrow" else f"ckptgrow.{room}")) or ""
    return " ".join(text.partition("\n\n")[0].split())


def shown_in(text: str) -> str:
    """The map that a text has between the markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def with_map(text: str) -> str:
    """The text with the map of today between the markers."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n{drawn()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        CONTRIBUTING.write_text(with_map(CONTRIBUTING.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(drawn())
