"""What stands in for an object is read through ckptgrow as the object, and by nothing else as if it were a file."""

from __future__ import annotations

import io
import mmap
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForCausalLM

import ckptgrow
from ckptgrow.addresses.address import local_path
from ckptgrow.addresses.stand_ins import StandIn, described
from ckptgrow.commands._paths import checkpoint_at
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.storage.tensors import whole
from ckptgrow.storage.tree import tensors_in
from tests.helpers.memory_store import emptied_store
from tests.helpers.paths import ROOT
from tests.helpers.trainer_files import SAMPLES, TRAINERS

FIXTURE = ROOT / "fixtures" / "gpt2-tiny.ckpt"
BUCKET = "memory://bucket"
OTHERS = {
    "composer": TRAINERS / "composer",
    "deepspeed": TRAINERS / "deepspeed",
    "lightning_deepspeed": TRAINERS / "lightning_deepspeed",
    "megatron": TRAINERS / "megatron",
}


def _mapped(path: Path) -> None:
    with Path(str(path)).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        pass


def _opened_by_safetensors(path: Path) -> None:
    with safe_open(path, framework="pt"):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: io.open(path, "rb"),  # noqa: SIM115, UP020 - not as a path opens
    "a plain path": lambda path: Path(str(path)).read_bytes(),
    "os.open": lambda path: os.open(path, os.O_RDONLY),
    "mmap": _mapped,
    "numpy.fromfile": lambda path: np.fromfile(path, dtype=np.uint8),
    "numpy.memmap": lambda path: np.memmap(path, mode="r"),
    "zipfile": zipfile.ZipFile,
    "a copy": lambda path: shutil.copy2(path, path.parent / "copy"),
    "torch.load": lambda path: torch.load(path, weights_only=True),
    "torch.load, mapped": lambda path: torch.load(path, weights_only=True, mmap=True),
    "a storage from a file": lambda path: torch.UntypedStorage.from_file(str(path), shared=False, nbytes=8),
    "safetensors": _opened_by_safetensors,
    "safetensors, all": load_file,
}


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from emptied_store(monkeypatch)


def standing(system: Any, path: Path) -> Path:
    """What stands in for a file or a directory that is put into the store."""
    system.put(str(path), f"/bucket/{path.name}", recursive=path.is_dir())
    return local_path(f"{BUCKET}/{path.name}")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One state in each kind that holds large files, and a large file of each."""
    root = tmp_path_factory.mktemp("kinds")
    for kind in ("lightning", "huggingface", "dcp"):
        ckptgrow.convert(FIXTURE, root / kind, kind)
    return {"lightning": root / "lightning", "huggingface": root / "huggingface", "dcp": root / "dcp"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name", ["gpt2-tiny.ckpt", "huggingface/model.safetensors", "huggingface/optimizer.pt", "dcp/__0_0.distcp"]
)
def test_whoever_opens_a_stand_in_by_itself_fails(bucket: Any, kinds: dict[str, Path], name: str, reader: str) -> None:
    folder, _, file = name.partition("/")
    found = standing(bucket, kinds[folder]) / file if file else standing(bucket, FIXTURE)
    assert found.is_file() and found.stat().st_size > 0
    with pytest.raises(Exception, match=r"No such file|not found|does not exist|unable to open|nothing"):
        READERS[reader](found)


def test_libraries_that_read_directories_fail_at_a_stand_in(
    bucket: Any, kinds: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"no file named model.safetensors"):
        AutoModelForCausalLM.from_pretrained(standing(bucket, kinds["huggingface"]))
    directory = standing(bucket, kinds["dcp"])
    assert FileSystemReader(directory).read_metadata().state_dict_metadata  # small files are whole
    with pytest.raises(CheckpointException, match=r"No such file"):  # torch's own, which is no Exception
        dcp_to_torch_save(str(directory), tmp_path / "one.pt")


def test_a_stand_in_opened_as_a_path_is_the_object(bucket: Any, kinds: dict[str, Path]) -> None:
    for kind, path in kinds.items():
        found = standing(bucket, path)
        for one in [path] if path.is_file() else sorted(path.iterdir()):
            same = found / one.name if path.is_dir() else found
            assert type(same) is StandIn and same.read_bytes() == one.read_bytes(), (kind, one.name)
            assert same.stat().st_size == one.stat().st_size and same.resolve() == same
    with pytest.raises(OSError, match="Read-only"):
        standing(bucket, FIXTURE).open("r+b")


@pytest.mark.parametrize("name", [*SAMPLES, *OTHERS])
@pytest.mark.sampled(8)
def test_every_format_reads_the_same_bytes_from_elsewhere(bucket: Any, name: str) -> None:
    path = SAMPLES[name] if name in SAMPLES else OTHERS[name]
    for one in [path] if name in SAMPLES else sorted(path.iterdir()):
        if one.is_dir() or one.suffix in (".pt", ".ckpt"):
            _compare(bucket, one)


@pytest.mark.parametrize("kind", ["lightning", "huggingface", "dcp"])
def test_every_kind_that_is_written_reads_the_same_bytes_from_elsewhere(
    bucket: Any, kinds: dict[str, Path], kind: str
) -> None:
    _compare(bucket, kinds[kind])


def _compare(bucket: Any, path: Path) -> None:
    try:
        here = read_checkpoint(path)
    except ckptgrow.CkptgrowError as error:  # no checkpoint by itself: told in the same words
        with pytest.raises(type(error)):
            read_checkpoint(standing(bucket, path))
        return
    there = read_checkpoint(standing(bucket, path))
    expected, found = dict(tensors_in(here.tree)), dict(tensors_in(there.tree))
    assert expected.keys() == found.keys() and expected
    for name, tensor in expected.items():
        assert torch.equal(
            whole(tensor).reshape(-1).view(torch.uint8), whole(found[name]).reshape(-1).view(torch.uint8)
        ), name
    assert there.config == here.config and there.carried.files == here.carried.files


def test_an_address_that_was_looked_up_is_not_looked_up_again(bucket: Any) -> None:
    bucket.put(str(FIXTURE), "/bucket/small.ckpt")
    found = checkpoint_at(Path(f"{BUCKET}/small.ckpt"))
    assert found is not None and local_path(found) is found
    assert described(found) != found and described(FIXTURE) == FIXTURE
