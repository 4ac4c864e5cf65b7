"""Objects of the user's classes travel through a growth untouched; their code never runs."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import ckptgrow
from ckptgrow.checkpoints import archive
from ckptgrow.cli import run
from ckptgrow.errors import CheckpointError, UnsafePickleError
from tests.builders import perturbed_gpt2, save_lightning, trained_checkpoint

PROJECT = '''
import collections, enum, pathlib
pathlib.Path(__file__).with_name("imported").touch()

class Mode(enum.Enum):
    FAST = "fast"

class Node:
    """As OmegaConf: children know their parents."""
    def __init__(self, content, parent=None):
        self.content, self.parent = content, parent
    def __setstate__(self, state):
        pathlib.Path(__file__).with_name("ran").touch()
        self.__dict__.update(state)

class Settings(dict):
    pass

class Rows(list):
    pass

class Timer:
    def __init__(self, seconds):
        self.seconds = seconds
    def __reduce__(self):
        return (make_timer, (self.seconds,))

def make_timer(seconds):
    pathlib.Path(__file__).with_name("ran").touch()
    return Timer(seconds)

def rate(step):
    return 1.0

def state():
    root = Node({"depth": 2})
    root.content["child"] = Node("leaf", root)
    counts = collections.defaultdict(list)
    counts["a"].append(3)
    return {
        "tree": root, "mode": Mode.FAST, "settings": Settings(a=1), "rows": Rows([1, 2]), "timer": Timer(2.5),
        "function": rate, "counts": counts, "mean": Node(__import__("torch").arange(3.0)),
    }
'''
SAVE = """
import sys, torch, project
tree = torch.load(sys.argv[1], weights_only=False)
tree["callbacks"] = {"Mine": project.state()}
tree["hyper_parameters"]["extra"] = project.Node([1, (2, "x")])
torch.save(tree, sys.argv[1])
"""
CHECK = """
import sys, torch, project
tree = torch.load(sys.argv[1], weights_only=False)
state = tree["callbacks"]["Mine"]
root = state["tree"]
assert type(root) is project.Node and root.content["depth"] == 2
assert root.content["child"].parent is root and root.content["child"].content == "leaf"
assert state["mode"] is project.Mode.FAST
assert type(state["settings"]) is project.Settings and state["settings"] == {"a": 1}
assert type(state["rows"]) is project.Rows and state["rows"] == [1, 2]
assert type(state["timer"]) is project.Timer and state["timer"].seconds == 2.5
assert state["function"] is project.rate
assert state["counts"] == {"a": [3]} and state["counts"]["new"] == []
assert torch.equal(state["mean"].content, torch.arange(3.0))
assert tree["hyper_parameters"]["extra"].content == [1, (2, "x")]
"""


def in_project(directory: Path, program: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=directory, check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint of a project whose classes leave a trace when they are imported or run."""
    (tmp_path / "project.py").write_text(PROJECT)
    path = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), num_steps=2)
    in_project(tmp_path, SAVE, str(path))
    (tmp_path / "imported").unlink()
    (tmp_path / "ran").unlink(missing_ok=True)
    return path


@pytest.mark.parametrize("operator", ["width", "depth"])
def test_the_users_objects_arrive_whole_and_none_of_their_code_runs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    getattr(ckptgrow, operator)(source, tmp_path / "grown.ckpt")
    assert ckptgrow.inspect(tmp_path / "grown.ckpt").problems == []
    assert not (tmp_path / "imported").exists() and not (tmp_path / "ran").exists()
    assert "project" not in sys.modules
    in_project(tmp_path, CHECK, str(tmp_path / "grown.ckpt"))
    assert (tmp_path / "ran").exists()  # by the project itself, which may


def test_an_object_that_holds_a_copy_of_the_weights_is_refused_by_key(source: Path, tmp_path: Path) -> None:
    program = SAVE.replace("project.state()", "{'average': project.Node(torch.zeros(31, 12))}")
    in_project(tmp_path, program, str(source))
    with pytest.raises(CheckpointError, match=r"callbacks\['Mine'\]\['average'\]\['content'\].*--drop callbacks"):
        ckptgrow.width(source, tmp_path / "grown.ckpt")
    assert run(["width", str(source), str(tmp_path / "grown.ckpt"), "--drop", "callbacks"]) == 0
    assert "callbacks" not in archive.read(tmp_path / "grown.ckpt")


class Evil:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (subprocess.Popen, (["touch", "victim"],)),
        (eval, ("open('victim', 'w')",)),
        (open, ("victim", "w")),
        (getattr, (str, "upper")),
        (torch.load, ("victim",)),
        (numpy.memmap, ("victim", "uint8", "w+", 0, (1,))),
        (functools.partial, (print,)),
        (__import__, ("antigravity",)),
        (os.mkdir, ("victim",)),
    ],
    ids=lambda value: getattr(value, "__name__", "call"),
)
def test_functions_that_everyone_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any, arguments: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(), callbacks=Evil(function, *arguments))
    with pytest.raises(UnsafePickleError, match="names code"):
        ckptgrow.width(tmp_path / "small.ckpt", tmp_path / "grown.ckpt")
    assert [one.name for one in tmp_path.iterdir()] == ["small.ckpt"]
