"""torch's distributed checkpoints: written and read by torch itself, grown by one process and by several."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.distributed import Processes
from ckptgrow.errors import CheckpointError, UnsafePickleError
from ckptgrow.formats import known_formats
from ckptgrow.state.opening import open_state
from ckptgrow.storage.archives.archive import check_sums
from ckptgrow.storage.dcp_io.dcp_files import PieceWriter
from ckptgrow.storage.dcp_io.dcp_writing import RowPlanner, write
from ckptgrow.storage.tensors import InMemory, Repeated, Zeros, is_lazy, whole
from ckptgrow.storage.tree import tensors_in
from tests.helpers.distributed import tensors_of
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import assert_same, state_of, trained_checkpoint
from tests.helpers.pickles import ByName
from tests.helpers.processes import together

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")


@pytest.fixture(scope="module")
def lightning_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("dcp") / "small.ckpt", perturbed_gpt2())


@pytest.fixture(scope="module")
def source(lightning_file: Path) -> Path:
    ckptgrow.convert(lightning_file, lightning_file.parent / "small", "dcp")
    return lightning_file.parent / "small"


def test_a_round_trip_from_lightning_is_equal_to_the_bit(source: Path, lightning_file: Path, tmp_path: Path) -> None:
    ckptgrow.convert(source, tmp_path / "back.ckpt", "lightning")
    old, new = state_of(lightning_file), state_of(tmp_path / "back.ckpt")
    for group in new["optimizers"][0]["param_groups"]:
        assert [name.removeprefix("model.") for name in group.pop("param_names")]
    assert_same(old, new)
    assert ckptgrow.inspect(source).kind == "dcp"


def test_torch_reads_what_is_written(source: Path, lightning_file: Path) -> None:
    tensors = tensors_of(source)
    for name, tensor in torch.load(lightning_file, weights_only=True)["state_dict"].items():
        assert torch.equal(tensors[f"('model', '{name}')"], tensor)


def test_what_torchs_own_interface_wrote_grows(tmp_path: Path) -> None:
    """`get_model_state_dict` and `get_optimizer_state_dict`, as torch's tutorials and torchtitan use them."""
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, token_batches(2))
    state = {"model": get_model_state_dict(model), "optim": get_optimizer_state_dict(model, optimizer), "step": 2}
    dcp.save(state, checkpoint_id=tmp_path / "small", no_dist=True)
    (tmp_path / "small" / "config.json").write_text(json.dumps(model.config.to_dict()))
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    report = ckptgrow.verify(tmp_path / "small", tmp_path / "grown")
    assert report.passed, report.sentences
    wide = perturbed_gpt2(n_embd=24, n_head=6, n_inner=40)
    new = {"model": get_model_state_dict(wide)}
    dcp.load(new, checkpoint_id=tmp_path / "grown", no_dist=True)
    assert tensors_of(tmp_path / "grown").keys() >= {"('optim', 'state', 'transformer.wte.weight', 'exp_avg')"}


def test_numbers_in_a_distributed_checkpoint_stay_numbers(tmp_path: Path) -> None:
    """The program that saved `optimizer.state_dict()` itself, with names in its groups, loads it so again."""

    def trained_state(model: Any, steps: int) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
        train(model, optimizer, token_batches(steps))
        return optimizer.state_dict()

    model = perturbed_gpt2()
    state = {"model": get_model_state_dict(model), "optim": trained_state(model, 2)}
    dcp.save(state, checkpoint_id=tmp_path / "small", no_dist=True)
    (tmp_path / "small" / "config.json").write_text(json.dumps(model.config.to_dict()))
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    wide = perturbed_gpt2(n_embd=24, n_head=6, n_inner=40)
    loaded = {"optim": trained_state(wide, 1)}
    dcp.load(loaded, checkpoint_id=tmp_path / "grown", no_dist=True)
    grown = open_state(tmp_path / "grown").optimizers[0].state
    for number, (name, _) in enumerate(wide.named_parameters()):
        record = loaded["optim"]["state"][number]
        assert record["step"] == 2 and torch.equal(record["exp_avg"], whole(grown[name]["exp_avg"])), name


def test_growing_gives_the_same_tensors_as_growing_the_file(source: Path, lightning_file: Path, tmp_path: Path) -> None:
    ckptgrow.depth(source, tmp_path / "grown")
    ckptgrow.depth(lightning_file, tmp_path / "grown.ckpt")
    expected = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    tensors = tensors_of(tmp_path / "grown")
    assert len([name for name in tensors if name.startswith("('model'")]) == len(expected)
    for name, tensor in expected.items():
        assert torch.equal(tensors[f"('model', '{name}')"], tensor)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_write_the_same_tensors_as_one(source: Path, tmp_path: Path, count: int) -> None:
    ckptgrow.width(source, tmp_path / "alone")
    done = together(count, "width", str(source), str(tmp_path / "shared"))
    assert [one.returncode for one in done] == [0] * count, done[0].stderr
    assert done[0].stdout.startswith(str(source)) and not any(one.stdout for one in done[1:])
    alone, shared = tensors_of(tmp_path / "alone"), tensors_of(tmp_path / "shared")
    assert alone.keys() == shared.keys() and all(torch.equal(alone[name], shared[name]) for name in alone)
    assert len(list((tmp_path / "shared").glob("*.distcp"))) == count
    histories = [ckptgrow.inspect(tmp_path / name).history for name in ("alone", "shared")]
    assert histories[0] == histories[1]
    assert not list(tmp_path.glob(".*"))


def test_several_processes_write_the_same_archives_byte_for_byte_in_fair_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is what torch itself would save, checksums included; the archive's number alone is of the contents."""
    monkeypatch.setattr("ckptgrow.storage.dcp_io.dcp_writing.PIECE_BYTES", 2048)
    tensor = torch.arange(3000.0).reshape(100, 30)
    tree: dict[str, Any] = {"a": Repeated(InMemory(tensor), 2), "b": Zeros((90, 10), torch.float32), "n": 3}
    tree |= {"c": InMemory(torch.tensor(2.0)), "d": InMemory(torch.zeros(0, 3)), "e": InMemory(tensor.bfloat16())}
    pieces: list[dict[Any, bytes]] = []
    for count in (1, 3):
        running = []
        pieces.append({})
        for rank in range(count):
            planner = RowPlanner(Processes(rank, count))
            planner.set_up_planner(dict(tree), is_coordinator=True)
            plan = planner.create_local_plan()
            path = tmp_path / f"{count}"
            writer = PieceWriter(path, planner.rows_of, lambda amount: None)
            (plan,) = writer.prepare_global_plan([writer.prepare_local_plan(plan)])
            results = writer.write_data(plan, planner).value()
            data = (path / "__0_0.distcp").read_bytes()
            pieces[-1] |= {one.index: data[one.storage_data.offset :][: one.size_in_bytes] for one in results}
            running.append(len(data))
        assert max(running) < 1.2 * min(running)
    assert pieces[0] == pieces[1] and len(pieces[0]) > 20
    whole_of = {"a": tensor.repeat(2, 1), "b": torch.zeros(90, 10), "e": tensor.bfloat16()}
    for index, data in pieces[0].items():
        if index.fqn in whole_of:
            found = torch.load(io.BytesIO(data), weights_only=True)
            assert torch.equal(found, whole_of[index.fqn][index.offset[0] :][: len(found)])
            check_sums(io.BytesIO(data), str(index))
            stream = io.BytesIO()
            torch.save(found.clone(), stream)
            assert len(stream.getvalue()) == len(data)


def test_blocks_that_other_processes_wrote_are_put_together(tmp_path: Path) -> None:
    """Rows and columns cut anywhere."""
    tensor = torch.randn(7, 5)
    write({"model": {"a": InMemory(tensor[:, 1:4])}, "n": 3}, tmp_path / "x", Processes(), lambda amount: None)
    tree = known_formats.DistributedFormat().read(tmp_path / "x")
    lazy = tree.tensors["a"]
    assert is_lazy(lazy) and torch.equal(lazy.rows(2, 6), tensor[2:6, 1:4])
    assert torch.equal(whole(next(tensor for _, tensor in tensors_in(dict(tree.tensors)))), tensor[:, 1:4])


def test_metadata_that_names_code_is_never_run(source: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "victim",)

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafePickleError, match="names code"):
        ckptgrow.inspect(tmp_path / "x")
    assert not (tmp_path / "victim").exists()


def test_members_of_enums_may_be_written_by_their_names(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    metadata = pickle.loads((copy / ".metadata").read_bytes())
    with (copy / ".metadata").open("wb") as file:
        ByName(file).dump(metadata)
    assert b"getattr" in (copy / ".metadata").read_bytes()
    assert ckptgrow.inspect(copy).num_tensors == ckptgrow.inspect(source).num_tensors
    ckptgrow.width(copy, tmp_path / "grown")
    assert ckptgrow.verify(copy, tmp_path / "grown", settings=ckptgrow.VerifySettings(level="stored")).passed


def test_nothing_else_is_taken_by_its_name(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return getattr, (torch.Size, "numel")

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafePickleError, match=r"names code.*builtins\.getattr"):
        ckptgrow.inspect(tmp_path / "x")


class Extra:
    """What a saver of the user's leaves behind."""

    def __init__(self) -> None:
        self.note, self.kind = "mine", DefaultSavePlanner

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("it ran")


@pytest.mark.parametrize("place", ["attribute", "storage_meta", "planner_data"])
def test_classes_in_the_metadata_that_nothing_needs_do_not_matter(source: Path, tmp_path: Path, place: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    metadata = pickle.loads((copy / ".metadata").read_bytes())
    if place == "planner_data":
        metadata.planner_data["nothing"] = Extra()
    else:
        setattr(metadata, {"attribute": "of_mine"}.get(place, place), [Extra(), {"a": Extra()}])
    (copy / ".metadata").write_bytes(pickle.dumps(metadata))
    found, expected = ckptgrow.inspect(copy), ckptgrow.inspect(source)
    assert found.problems == [] and found.num_tensors == expected.num_tensors
    ckptgrow.width(copy, tmp_path / "grown", noise=0)


def test_objects_of_libraries_in_a_distributed_checkpoint_arrive_equal(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    mine: dict[str, Any] = {"rate": numpy.float64(0.25), "table": numpy.arange(4), "random": numpy.random.get_state()}
    small = tmp_path / "small"
    dcp.save({"model": get_model_state_dict(model), "mine": mine}, checkpoint_id=small, no_dist=True)
    model.config.to_json_file(small / "config.json")
    ckptgrow.width(small, tmp_path / "grown", noise=0)
    dcp_to_torch_save(tmp_path / "grown", tmp_path / "flat.pt")
    found = torch.load(tmp_path / "flat.pt", weights_only=False)["mine"]
    assert found["rate"] == 0.25 and type(found["rate"]) is numpy.float64
    assert numpy.array_equal(found["table"], mine["table"])
    assert numpy.array_equal(found["random"][1], mine["random"][1])


def test_a_missing_or_short_file_is_named(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = next(copy.glob("*.distcp"))
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="ends before"):
        ckptgrow.inspect(copy)
    data.unlink()
    with pytest.raises(CheckpointError, match="names the file"):
        ckptgrow.inspect(copy)


def test_a_damaged_block_that_is_met_while_writing_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What torch wraps such errors in derives from BaseException."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    data = next(copy.glob("*.distcp"))
    blocks = dcp.FileSystemReader(copy).read_metadata().storage_data
    place = next(block.offset for index, block in blocks.items() if index.fqn.endswith("wte.weight"))
    with data.open("r+b") as file:
        file.seek(place)
        file.write(b"XX")
    assert run(["width", str(copy), str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and data.name in lines[0] and "damaged" in lines[0]
    assert [one.name for one in tmp_path.iterdir()] == ["copy"]


class Waiting(Processes):
    """Two processes that need not wait."""

    def wait(self) -> None:
        """Not at all."""


def test_torchrun_on_another_kind_says_what_to_do(
    lightning_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ckptgrow.formats.known_formats.processes", lambda: Waiting(0, 2))
    assert run(["width", str(lightning_file), str(tmp_path / "out.ckpt")]) == 2
    assert "convert" in capsys.readouterr().err and not list(tmp_path.iterdir())
