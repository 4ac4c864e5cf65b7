"""Checkpoints as objects: read by ranges, written whole, and nothing of a run that was killed looks whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

import ckptgrow
from ckptgrow.cli import run
from tests.helpers.commands import refused
from tests.helpers.families import perturbed
from tests.helpers.memory_store import emptied_store
from tests.helpers.paths import ROOT

FIXTURE = ROOT / "fixtures" / "gpt2-tiny.ckpt"
BUCKET = "memory://bucket"


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    yield from emptied_store(monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    perturbed("llama").save_pretrained(tmp_path / "model", max_shard_size="20KB")
    return tmp_path / "model"


def put(system: Any, path: Path, key: str) -> str:
    system.put(str(path), f"/bucket/{key}", recursive=path.is_dir())
    return f"{BUCKET}/{key}"


def bytes_in(system: Any, key: str) -> dict[str, bytes]:
    root = f"/bucket/{key}"
    return {path[len(root) :].strip("/"): system.cat_file(path) for path in system.find(root)}


def bytes_of(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


@pytest.mark.parametrize("kind", ["lightning", "huggingface", "dcp"])
def test_growth_between_addresses_gives_the_bytes_of_growth_between_paths(
    tmp_path: Path, bucket: Any, kind: str
) -> None:
    small = tmp_path / "small"
    ckptgrow.convert(FIXTURE, small, kind)
    address = put(bucket, small, "run/small")
    ckptgrow.width(small, tmp_path / "grown", factor=2)
    ckptgrow.width(address, f"{BUCKET}/run/grown", factor=2)
    there, here = bytes_in(bucket, "run/grown"), bytes_of(tmp_path / "grown")
    named_anew = (".metadata",)  # torch gives each distributed checkpoint a name of its own
    assert there.keys() == here.keys()
    assert all(data == here[name] for name, data in there.items() if name not in named_anew)
    assert ckptgrow.verify(address, f"{BUCKET}/run/grown").passed


def test_tensors_are_read_by_ranges_and_each_byte_at_most_once(
    tmp_path: Path, bucket: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = put(bucket, directory, "model")
    read, fetched = list[int](), list[str]()
    cat, get = MemoryFileSystem.cat_file, MemoryFileSystem.get_file

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        found: bytes = cat(self, path, start=start, end=end, **options)
        read.append(len(found))
        return found

    def noted(self: Any, path: str, target: str, **options: Any) -> None:
        fetched.append(Path(path).name)
        get(self, path, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    monkeypatch.setattr(MemoryFileSystem, "get_file", noted)
    ckptgrow.width(address, tmp_path / "grown", factor=2, separate="none")
    assert not any(name.endswith(".safetensors") for name in fetched)
    weights = sum(one.stat().st_size for one in directory.glob("*.safetensors"))
    assert sum(read) <= 2 * weights  # headers too, which are long beside weights as small as these


def test_commands_take_addresses_on_both_sides(
    tmp_path: Path, bucket: Any, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = put(bucket, directory, "model")
    assert run(["width", address, f"{BUCKET}/wide", "--dry-run"]) == 0
    assert not bucket.find("/bucket/wide")
    assert run(["width", address, f"{BUCKET}/wide"]) == 0
    assert f"→ {BUCKET}/wide: " in capsys.readouterr().out
    assert run(["verify", address, f"{BUCKET}/wide"]) == 0
    assert run(["convert", f"{BUCKET}/wide", str(tmp_path / "wide.ckpt"), "--to", "lightning"]) == 0
    refused(["width", address, f"{BUCKET}/wide"], capsys, f"{BUCKET}/wide: exists already", "--force")
    assert run(["depth", address, f"{BUCKET}/wide", "--force"]) == 0
    assert run(["inspect", f"{BUCKET}/wide", "--check", "--json"]) == 0
    assert '"operator": "depth"' in capsys.readouterr().out


def test_what_reads_files_by_itself_has_them_whole(tmp_path: Path, bucket: Any, directory: Path) -> None:
    from ckptgrow.commands._paths import whole_checkpoint_at

    put(bucket, directory, "model")
    found = whole_checkpoint_at(Path(f"{BUCKET}/model"))
    assert found is not None and bytes_of(found) == bytes_of(directory)


def test_what_makes_it_a_checkpoint_is_written_last(
    tmp_path: Path, bucket: Any, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = put(bucket, directory, "model")
    names = list[str]()
    put_file = MemoryFileSystem.put_file

    def broken(self: Any, source: str, target: str, **options: Any) -> None:
        names.append(Path(target).name)
        if len(names) == 4:
            raise OSError("the connection is gone")
        put_file(self, source, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", broken)
    refused(["width", address, f"{BUCKET}/wide"], capsys, f"{BUCKET}/wide: cannot be reached (the connection is gone)")
    monkeypatch.undo()
    assert bucket.find("/bucket/wide")
    refused(["inspect", f"{BUCKET}/wide"], capsys, f"{BUCKET}/wide: is not a checkpoint")


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_damaged_object_is_refused(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    broken = tmp_path / "broken.ckpt"
    shutil.copy(FIXTURE, broken)
    with broken.open("r+b") as file:
        file.truncate(broken.stat().st_size // 2) if place == "last" else file.write(b"\0" * 64)
    refused(["inspect", put(bucket, broken, "broken.ckpt")], capsys, "broken.ckpt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", f"{BUCKET}/nothing"], f"{BUCKET}/nothing: no such object, expected a checkpoint"),
        (["inspect", "nope://bucket/small"], "nope://bucket/small: nothing here reads nope://"),
        (["width", str(FIXTURE), "hf://owner/name"], "hf://owner/name: can be read alone"),
        (["width", str(FIXTURE), "https://example.org/x"], "https://example.org/x: can be read alone"),
        (["inspect", "https://example.org/small.ckpt"], "is a page"),
        (["width", str(FIXTURE), f"{BUCKET}/out.json"], "its suffix says another kind"),
        (["data", str(FIXTURE), f"{BUCKET}/out", "--tokenizer", "bytes"], "is an address, expected a local path"),
    ],
)
def test_bad_addresses_are_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(arguments, capsys, said)


def test_a_trained_state_goes_on_from_an_address(tmp_path: Path, bucket: Any) -> None:
    address = put(bucket, FIXTURE, "small.ckpt")
    ckptgrow.depth(address, tmp_path / "deep.ckpt")
    tree = torch.load(tmp_path / "deep.ckpt", weights_only=True)
    ckptgrow.depth(FIXTURE, tmp_path / "beside.ckpt")
    other = torch.load(tmp_path / "beside.ckpt", weights_only=True)
    assert tree["ckptgrow"] == other["ckptgrow"]
