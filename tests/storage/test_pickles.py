"""Objects of the user's classes travel through a growth untouched; their code never runs."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import functools
import os
import random
import shutil
import subprocess
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import AutoConfig

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.cli import run
from ckptgrow.errors import CheckpointError, UnsafePickleError
from ckptgrow.storage.archives import archive
from tests.helpers.families import perturbed
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import save_lightning, trained_checkpoint
from tests.helpers.pickles import ByName
from tests.helpers.processes import completed

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
    (directory / "program.py").write_text(program)
    (done,) = completed("program", arguments, directory=directory)
    assert done.returncode == 0, done.stderr
    (directory / "program.py").unlink()


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
    with pytest.raises(CheckpointError, match=r"""callbacks\['Mine'\]\['average'\]\['content'\].*drop=\("callbacks"""):
        ckptgrow.width(source, tmp_path / "grown.ckpt")
    assert run(["width", str(source), str(tmp_path / "grown.ckpt"), "--drop", "callbacks"]) == 0
    assert "callbacks" not in archive.read(tmp_path / "grown.ckpt")


def plain_objects() -> dict[str, Any]:
    """What everyday scripts leave in hyper-parameters and callbacks."""
    generator = numpy.random.default_rng(3)
    return {
        "float": numpy.float64(0.1),
        "half": numpy.float16(0.5),
        "int": numpy.int32(-7),
        "byte": numpy.uint8(200),
        "array": numpy.arange(6.0).reshape(2, 3),
        "fortran": numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
        "texts": numpy.array(["a", "bc"]),
        "objects": numpy.array([1, None, "x"], dtype=object),
        "dtype": numpy.dtype("float32"),
        "type": numpy.float32,
        "legacy random": numpy.random.get_state(),
        "generator": generator.bit_generator.state,
        "partial": functools.partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95)),
        "loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        "activation": torch.nn.functional.relu,
        "size": torch.Size([2, 3]),
        "path": Path("some/where"),
        "time": datetime.datetime(2024, 5, 6, 7, 8, tzinfo=datetime.timezone.utc),
        "delta": datetime.timedelta(seconds=3),
        "fraction": fractions.Fraction(1, 3),
        "decimal": decimal.Decimal("1.5"),
        "range": range(2, 9, 3),
        "python random": random.getstate(),
        "complex": 1 + 2j,
        "deque": collections.deque([1, 2]),
        "dtype of torch": torch.bfloat16,
    }


def assert_same(one: Any, other: Any, key: str) -> None:
    assert type(one) is type(other), key
    if isinstance(one, numpy.ndarray):
        assert one.dtype == other.dtype and numpy.array_equal(one, other), key
        assert one.flags.f_contiguous == other.flags.f_contiguous
    elif isinstance(one, tuple):
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs, key)
    elif isinstance(one, functools.partial):
        assert (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    elif isinstance(one, torch.nn.Module):
        assert repr(one) == repr(other) and one.__dict__.keys() == other.__dict__.keys()
    else:
        assert one == other, key


@pytest.mark.parametrize("key", sorted(plain_objects()))
def test_plain_objects_of_the_libraries_arrive_equal(tmp_path: Path, key: str) -> None:
    value = plain_objects()[key]
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(), mine={"deep": [value]})
    ckptgrow.width(source, tmp_path / "grown.ckpt")
    assert_same(torch.load(tmp_path / "grown.ckpt", weights_only=False)["mine"]["deep"][0], value, key)


def test_every_plain_object_at_once(tmp_path: Path) -> None:
    everything = {
        **plain_objects(),
        "random state": numpy.random.RandomState(1),
        "generators": numpy.random.default_rng(2),
    }
    save_lightning(tmp_path / "all.ckpt", perturbed_gpt2(), mine=everything)
    ckptgrow.width(tmp_path / "all.ckpt", tmp_path / "grown.ckpt")
    found = torch.load(tmp_path / "grown.ckpt", weights_only=False)["mine"]
    for key, value in plain_objects().items():
        assert_same(found[key], value, key)
    assert found["random state"].random() == everything["random state"].random()
    assert found["generators"].random() == everything["generators"].random()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f8", "i1", "i8", "u2", "?", ">i4"])
def test_numpy_numbers_are_numbers(tmp_path: Path, kind: str) -> None:
    value = numpy.array([1], dtype=kind)[0]
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(), mine=value)
    number = archive.read(source)["mine"]
    assert number == value and number + 1 == 2


def test_learning_rates_of_numpy_are_grown_as_numbers(tmp_path: Path) -> None:
    """The same growth as with Python's own numbers."""
    grown: list[dict[str, Any]] = []
    for kind in (float, numpy.float64):
        model = perturbed_gpt2()
        optimizer = torch.optim.AdamW(model.parameters(), lr=kind(1e-3), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, kind=kind: kind(0.5) ** step)
        path = save_lightning(tmp_path / "small.ckpt", model, [optimizer], [schedule])
        ckptgrow.width(path, tmp_path / "grown.ckpt", request=StateRequest(lr_rule="mup", force=True))
        grown.append(torch.load(tmp_path / "grown.ckpt", weights_only=False))
        assert ckptgrow.inspect(path).optimizer is not None
    one, other = grown
    assert one["optimizer_states"][0]["param_groups"] == other["optimizer_states"][0]["param_groups"]
    assert one["lr_schedulers"] == other["lr_schedulers"]


@pytest.mark.parametrize("holder", [dict, Namespace])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "gpt_neox", "qwen3_moe"])
def test_a_config_object_is_the_config_and_stays_an_object(tmp_path: Path, family: str, holder: type[Any]) -> None:
    model = perturbed(family)
    source = save_lightning(tmp_path / "small.ckpt", model, hyper_parameters=holder(config=model.config, lr=0.1))
    save_lightning(tmp_path / "plain.ckpt", model)
    found, plain = ckptgrow.inspect(source), ckptgrow.inspect(tmp_path / "plain.ckpt")
    assert found.family == model.config.model_type and found.sizes == plain.sizes and found.problems == []
    for name in ("small", "plain"):
        ckptgrow.width(tmp_path / f"{name}.ckpt", tmp_path / f"{name}-grown.ckpt", noise=0)
    tree = torch.load(tmp_path / "small-grown.ckpt", weights_only=False)
    arguments = tree["hyper_parameters"] if holder is dict else vars(tree["hyper_parameters"])
    expected = torch.load(tmp_path / "plain-grown.ckpt", weights_only=True)
    assert type(arguments["config"]) is type(model.config) and arguments["lr"] == 0.1
    wide = AutoConfig.for_model(**expected["hyper_parameters"]["config"]).to_dict()
    assert {**arguments["config"].to_dict(), "dtype": None} == {**wide, "dtype": None}
    assert ckptgrow.inspect(tmp_path / "small-grown.ckpt").problems == []


@pytest.mark.parametrize("form", ["int8", "uint8", "int64", "flat", "packed", "array", "int8 array"])
def test_copies_of_the_weights_in_other_dtypes_are_refused_by_key(tmp_path: Path, form: str) -> None:
    """8-bit averages, and NumPy's arrays."""
    copies: dict[str, Any] = {
        "int8": torch.zeros(31, 12, dtype=torch.int8),
        "uint8": torch.zeros(31, 12, dtype=torch.uint8),
        "int64": torch.zeros(31, 12, dtype=torch.int64),
        "flat": torch.zeros(31 * 12, dtype=torch.uint8),
        "packed": torch.zeros(31 * 6, 1, dtype=torch.uint8),
        "array": numpy.zeros((31, 12), dtype=numpy.float32),
        "int8 array": numpy.zeros((31, 12), dtype=numpy.int8),
    }
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(), average={"wte": copies[form]})
    with pytest.raises(CheckpointError, match=r"""average\['wte'\] holds.*drop=\("average"""):
        ckptgrow.width(source, tmp_path / "grown.ckpt")
    ckptgrow.width(source, tmp_path / "grown.ckpt", request=StateRequest(drop=("average",)))


def test_integers_that_are_no_copies_go_along(tmp_path: Path) -> None:
    others = {
        "random": torch.get_rng_state(),
        "order": torch.arange(5000),
        "mask": torch.ones(31, 12, dtype=torch.bool),
    }
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(), mine=others)
    ckptgrow.width(source, tmp_path / "grown.ckpt")


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
        (functools.partial, (subprocess.call, ["touch", "victim"])),
        (functools.reduce, (eval, ("open('victim', 'w')",))),
        (numpy.load, ("victim",)),
        (numpy.fromfile, ("victim",)),
        (torch.save, ({}, "victim")),
        (exec, ("open('victim', 'w')",)),
        (shutil.rmtree, ("victim",)),
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


class Note:
    """A class of the user's, so that the file is not one that torch reads with `weights_only`."""


@pytest.mark.parametrize("kind", [torch.nn.Parameter, torch.Tensor.clone])
def test_a_tensor_with_attributes_is_the_tensor(tmp_path: Path, kind: Any) -> None:
    marked = kind(torch.arange(4.0))
    marked.owner = "mine"
    torch.save({"marked": marked, "plain": marked.data, "note": Note()}, tmp_path / "a.pt")
    tree: Any = archive.read(tmp_path / "a.pt")
    assert torch.equal(tree["marked"].rows(0, 4), torch.arange(4.0))
    assert tree["plain"] is tree["marked"]


@pytest.mark.parametrize("call", [(print, torch.Tensor, ("text",), {}), (Note, torch.Tensor, (), {})])
def test_a_tensor_with_attributes_is_made_by_no_other_function(tmp_path: Path, call: tuple[Any, ...]) -> None:
    torch.save({"tensor": Evil(torch._tensor._rebuild_from_type_v2, *call), "note": Note()}, tmp_path / "a.pt")
    with pytest.raises(UnsafePickleError, match="does not run"):
        archive.read(tmp_path / "a.pt")


def test_the_class_of_tensors_is_not_called(tmp_path: Path) -> None:
    torch.save({"note": Note(), "tensor": Evil(torch.Tensor, 2**40)}, tmp_path / "a.pt")
    with pytest.raises(UnsafePickleError, match="does not run"):
        archive.read(tmp_path / "a.pt")


class Colour(enum.Enum):
    """An enum of the user's."""

    RED = "r"


def test_members_of_the_users_enums_may_be_written_by_their_names(tmp_path: Path) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(), mine=[Colour.RED, Note()])
    tree = torch.load(source, weights_only=False)
    torch.save(tree, source, pickle_module=types.SimpleNamespace(__name__="by_name", Pickler=ByName))
    ckptgrow.width(source, tmp_path / "grown.ckpt")
    assert torch.load(tmp_path / "grown.ckpt", weights_only=False)["mine"][0] is Colour.RED
