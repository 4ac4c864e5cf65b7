"""Arrows point down only: imports read from the syntax tree, against the rows of the house."""

from __future__ import annotations

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter

import pytest

from tests.package_map import (
    CONTRIBUTING,
    END,
    MODULES,
    PACKAGE,
    RANK,
    ROOT,
    ROWS,
    arrows,
    drawn,
    imported,
    module_graph,
    own_modules,
    parsed,
    room_of,
    shown_in,
)

HEAVY = {"torch", "transformers", "numpy", "lightning", "lm_eval", "scipy", "matplotlib", "rich", "tensorboard"}
ONLY_IMPORTER = {"lightning": "train", "lm_eval": "evaluate", "scipy": "planning", "matplotlib": "planning"}
SHOWS = ("cli", "commands", "__main__")  # the rooms that print and exit
GRAPH = module_graph()
COMMANDS = [name for name in MODULES if room_of(name) == "commands"]
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


def at_load(module: str) -> ast.Module:
    """What runs when a module is imported, of its imports."""
    return ast.Module([node for node in parsed(module).body if isinstance(node, ast.Import | ast.ImportFrom)], [])


def test_every_room_stands_on_one_row() -> None:
    assert Counter(room for row in ROWS for room in row) == Counter({room_of(name) for name in MODULES})


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    here = room_of(module)
    for other in GRAPH[module]:
        there = room_of(other)
        assert there == here or RANK[there] > RANK[here], f"{module} imports {other}"
    for root in {name.split(".")[0] for name in imported(parsed(module), module)} & set(ONLY_IMPORTER):
        assert here == ONLY_IMPORTER[root], f"{module} imports {root}, which is {ONLY_IMPORTER[root]}'s alone"


def test_modules_import_each_other_in_no_circle() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_folders_of_a_room_import_each_other_in_no_circle() -> None:
    folders = {name: name.rpartition(".")[0] for name in MODULES if name.count(".") > 2}
    graph = {folder: set[str]() for folder in folders.values()}
    for module, folder in folders.items():
        graph[folder] |= {folders[other] for other in GRAPH[module] if other in folders} - {folder}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_when_it_loads(package: str) -> None:
    """So that what a module loads is what it says it imports, and no more."""
    loaded = own_modules(imported(at_load(package), package)) - {package}
    assert loaded <= {"ckptgrow.version"}


def test_no_name_of_a_module_occurs_twice() -> None:
    counted = Counter(name.rpartition(".")[2] for name in MODULES if name not in PACKAGES)
    assert not {name for name, count in counted.items() if count > 1}


@pytest.mark.parametrize(
    ("code", "module", "expected"),
    [
        ("from ckptgrow import width", "ckptgrow.train.module", "ckptgrow"),
        ("from ckptgrow import growth", "ckptgrow.train.module", "ckptgrow.growth"),
        ("import ckptgrow", "ckptgrow.train.module", "ckptgrow"),
        ("import ckptgrow.growth.pipeline as p", "ckptgrow.train.module", "ckptgrow.growth.pipeline"),
        ("from ckptgrow.train import parameter_groups", "ckptgrow.planning.laws", "ckptgrow.train"),
        ("from ckptgrow.growth.request import *", "ckptgrow.planning.laws", "ckptgrow.growth.request"),
        ("from .request import Grown", "ckptgrow.growth.pipeline", "ckptgrow.growth.request"),
        ("from .. import width", "ckptgrow.growth.pipeline", "ckptgrow"),
        ("from . import request", "ckptgrow.growth", "ckptgrow.growth.request"),
        ("def f():\n    from ckptgrow.errors import DataError", "ckptgrow.growth.pipeline", "ckptgrow.errors"),
        ("if TYPE_CHECKING:\n    import ckptgrow.errors", "ckptgrow.growth.pipeline", "ckptgrow.errors"),
        ("import_module('ckptgrow.growth')", "ckptgrow.train.module", "ckptgrow.growth"),
        ("importlib.import_module('ckptgrow').width", "ckptgrow.train.module", "ckptgrow"),
    ],
)
def test_the_guard_sees_every_way_of_importing(code: str, module: str, expected: str) -> None:
    assert own_modules(imported(ast.parse(code), module)) == {expected}


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_import_nothing_heavy_when_they_load(module: str) -> None:
    assert not {name.split(".")[0] for name in imported(at_load(module), module)} & HEAVY


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) not in SHOWS])
def test_the_library_neither_prints_nor_exits(module: str) -> None:
    calls = [node.func for node in ast.walk(parsed(module)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "exit")]
    assert not [call for call in calls if isinstance(call, ast.Attribute) and ast.unparse(call) == "sys.exit"]


def test_contributing_shows_the_map_of_today() -> None:
    """`python -m tests.package_map --write` brings it up to date."""
    assert shown_in(CONTRIBUTING.read_text(encoding="utf-8")) == drawn()


def test_files_that_contributing_names_are_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`", CONTRIBUTING.read_text(encoding="utf-8").partition(END)[2])
    files = {name for name in named if "NAME" not in name}
    assert len(files) > 30 and not {name for name in files if not ((ROOT / name).exists() or (PACKAGE / name).exists())}


def test_the_picture_leaves_out_only_arrows_that_follow_from_others() -> None:
    rooms = arrows(GRAPH)
    picture = {room: set[str]() for room in rooms}
    names = {room.strip("_"): room for room in rooms}
    for line in drawn().partition("```\n\n|")[0].splitlines()[2:]:
        left, _, right = line.strip().partition(" --> ")
        picture[names[left.partition("[")[0]]].add(names[right.partition("[")[0]])
    for room, others in rooms.items():
        reached, waiting = set[str](), [room]
        while waiting:
            new = picture[waiting.pop()] - reached
            reached |= new
            waiting += new
        assert reached >= others
