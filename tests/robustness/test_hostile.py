"""Files that were made to mislead, and requests beyond any model: one line that says what, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.storage.files.atomic import appearing, clear_leftovers
from ckptgrow.storage.tree import map_leaves, tensors_in
from tests.helpers.commands import refused
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import trained_checkpoint


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), num_steps=1)


def copied(source: Path, write: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> None:
    """The archive once more, its entries as `write` writes them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(source.with_suffix(".new"), "w") as new:
        for info in old.infolist():
            write(new, zipfile.ZipInfo(info.filename), old.read(info))
    source.with_suffix(".new").replace(source)


def twice(new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(info, data)
    if info.filename.endswith("data/0"):
        new.writestr(zipfile.ZipInfo(info.filename), bytes(len(data)))


def big_endian(new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(info, b"big" if info.filename.endswith("byteorder") else data)


def large_note(new: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
    new.writestr(info, bytes(2**17) if info.filename.endswith("version") else data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("write", "word"), [(twice, "twice"), (big_endian, "big-endian"), (large_note, "131072 bytes")]
)
def test_archives_that_torch_would_not_write_are_refused(
    source: Path, capsys: pytest.CaptureFixture[str], write: Any, word: str
) -> None:
    copied(source, write)
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, str(source), word)
    assert not source.with_name("out.ckpt").exists()


def spoil_signature(file: Any, info: zipfile.ZipInfo) -> None:
    file.seek(info.header_offset)
    file.write(b"XXXX")


def shift_data(file: Any, info: zipfile.ZipInfo) -> None:
    file.seek(info.header_offset + 28)
    (length,) = struct.unpack("<H", file.read(2))
    file.seek(info.header_offset + 28)
    file.write(struct.pack("<H", length + 64))


@pytest.mark.parametrize("spoil", [spoil_signature, shift_data])
def test_headers_that_contradict_the_directory_are_refused(
    source: Path, capsys: pytest.CaptureFixture[str], spoil: Any
) -> None:
    with zipfile.ZipFile(source) as archive:
        info = next(one for one in archive.infolist() if one.filename.endswith("data/3"))
    with source.open("r+b") as file:
        spoil(file, info)
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, str(source))


def edit(source: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = torch.load(source, weights_only=True)
    change(tree)
    torch.save(tree, source)


def group(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree["optimizer_states"][0]["param_groups"][0].update({key: value})


def record(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree["optimizer_states"][0]["state"][0].update({key: value})


def schedule(**state: object) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree.update(lr_schedulers=[{"last_epoch": 1, "base_lrs": [0.1], "_last_lr": [0.1], **state}])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (group("lr", "fast"), "lr is fast"),
        (group("lr", float("nan")), "lr is nan"),
        (group("eps", -1.0), "eps is -1.0"),
        (group("weight_decay", [float("inf")]), "weight_decay"),
        (group("betas", "xy"), "betas are xy"),
        (record("exp_avg", "abc"), "exp_avg of model.transformer.wte.weight is abc"),
        (record("exp_avg_sq", torch.ones(31, 12, dtype=torch.int64)), "exp_avg_sq"),
        (record("step", torch.tensor(-3.0)), "step"),
        (record("step", float("nan")), "step"),
        (schedule(last_epoch="soon"), "last_epoch is 'soon'"),
        (schedule(base_lrs=["x"]), "base_lrs"),
        (schedule(_last_lr=5), "_last_lr"),
    ],
)
def test_numbers_that_are_none_are_refused(
    source: Path, capsys: pytest.CaptureFixture[str], change: Any, word: str
) -> None:
    edit(source, change)
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, word)


def test_lists_that_repeat_themselves_are_looked_into_once(source: Path) -> None:
    bomb: list[Any] = [torch.ones(2)]
    for _ in range(40):
        bomb = [bomb] * 10
    assert len(list(tensors_in(map_leaves(bomb, torch.is_tensor, lambda one: one)))) <= 1
    edit(source, lambda tree: tree["callbacks"].update(bomb=bomb))
    ckptgrow.width(source, source.with_name("out.ckpt"))
    kept: Any = torch.load(source.with_name("out.ckpt"), weights_only=True)["callbacks"]["bomb"]
    for _ in range(40):
        kept = kept[9]
    assert torch.equal(kept[0], torch.ones(2))


def test_a_pickle_that_wants_memory_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(source, lambda tree: tree["callbacks"].update(room=bytearray(10)))
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, "makes a bytearray")


def test_tensors_in_a_set_go_along(source: Path) -> None:
    edit(source, lambda tree: tree["callbacks"].update(members={torch.ones(2)}))
    ckptgrow.width(source, source.with_name("out.ckpt"))
    (kept,) = torch.load(source.with_name("out.ckpt"), weights_only=True)["callbacks"]["members"]
    assert torch.equal(kept, torch.ones(2))


@pytest.mark.parametrize("value", [10**12, -1, "x"])
def test_sizes_beyond_any_model_are_refused(source: Path, capsys: pytest.CaptureFixture[str], value: object) -> None:
    edit(source, lambda tree: tree["hyper_parameters"]["config"].update(n_layer=value))
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, "n_layer")


@pytest.mark.parametrize(
    "request_",
    [
        "width --factor 1000000000",
        "width --ffn 1000000000",
        "depth --factor 1000000000",
        f"depth --step {10**12}",
    ],
)
def test_requests_beyond_any_model_are_refused(source: Path, capsys: pytest.CaptureFixture[str], request_: str) -> None:
    command, *options = request_.split()
    refused([command, str(source), str(source.with_name("out.ckpt")), *options], capsys, "expected")


def test_input_and_output_inside_each_other_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "all" / "small")
    inner = tmp_path / "all" / "small"
    refused(["width", str(inner), str(tmp_path / "all"), "--force"], capsys, "inside the other")
    refused(["width", str(inner), str(inner / "out")], capsys, "inside the other")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years")
    refused(["width", str(inner), str(tmp_path / "notes"), "--force"], capsys, "something else than a checkpoint")
    assert (tmp_path / "notes" / "thesis.txt").exists() and (inner / "model.safetensors").exists()


def test_an_old_output_that_a_killed_run_had_moved_aside_comes_back(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    aside = tmp_path / f".out.{child}.replaced.partial"
    perturbed_gpt2().save_pretrained(aside)
    clear_leftovers(tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    shutil.copytree(tmp_path / "out", aside)
    clear_leftovers(tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_whatever_appears_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    """Training and evaluation write by it too."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / f".out.{child}.partial").write_text("half")
    with appearing(tmp_path / "out") as partial:
        partial.write_text("whole")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["config.json", "optimizer.pt", "scheduler.bin", "ckptgrow.json"])
def test_links_to_nowhere_in_place_of_parts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "small")
    (tmp_path / "small" / name).unlink(missing_ok=True)
    (tmp_path / "small" / name).symlink_to("nowhere")
    refused(["inspect", str(tmp_path / "small")], capsys, name)


def test_an_index_of_torch_files_that_disagrees_with_them_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = perturbed_gpt2()
    model.config.save_pretrained(tmp_path / "small")
    torch.save(model.state_dict(), tmp_path / "small" / "pytorch_model-1.bin")
    index = {"weight_map": dict.fromkeys([*model.state_dict(), "ghost"], "pytorch_model-1.bin")}
    (tmp_path / "small" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    refused(["inspect", str(tmp_path / "small")], capsys, "disagree on tensor ghost")


def test_control_characters_of_names_do_not_reach_the_terminal(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(source, lambda tree: tree["state_dict"].update({"\x1b[31mred" + "x" * 5000: torch.ones(1)}))
    assert run(["width", str(source), str(source.with_name("out.ckpt"))]) == 2
    message = capsys.readouterr().err
    assert "\x1b" not in message and len(message) < 2100


def test_averages_are_not_counted_as_parameters(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    averages = {f"ema.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    source = trained_checkpoint(tmp_path / "small.ckpt", model, num_steps=1)
    edit(source, lambda tree: tree["state_dict"].update(averages))
    done = ckptgrow.width(source, tmp_path / "out.ckpt")
    assert done.num_parameters[1] == ckptgrow.inspect(tmp_path / "out.ckpt").num_parameters


def test_the_json_of_inspect_counts_tensors_by_dtype(source: Path) -> None:
    assert ckptgrow.inspect(source).to_json()["dtypes"] == {"float64": 29}
