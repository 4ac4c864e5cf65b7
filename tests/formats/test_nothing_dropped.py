"""What a growth or a conversion cannot take along is refused or listed; nothing is lost in silence."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from transformers import MixtralConfig, MixtralForCausalLM

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.cli import run
from ckptgrow.errors import CheckpointError, RequestError
from ckptgrow.state.opening import open_state
from ckptgrow.storage.dcp_io.dcp_pieces import Piece
from ckptgrow.storage.dcp_io.dcp_reading import _cover  # pyright: ignore[reportPrivateUsage]
from ckptgrow.storage.files import tensor_writing
from tests.helpers.distributed import tensors_of
from tests.helpers.gpt2 import gpt2_config, perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning, trained_checkpoint
from tests.helpers.processes import together
from tests.helpers.state_requests import MUP

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")


def trained() -> tuple[Any, torch.optim.Optimizer]:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, token_batches(1))
    return model, optimizer


def distributed(path: Path, state: dict[str, Any]) -> Path:
    dcp.save(state, checkpoint_id=path, no_dist=True)
    (path / "config.json").write_text(json.dumps(gpt2_config().to_dict()))
    return path


def plain(path: Path, **more: Any) -> Path:
    model, optimizer = trained()
    state = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    return distributed(path, {**state, **more})


def test_two_processes_convert_into_one_distributed_checkpoint(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), num_steps=1)
    ckptgrow.convert(source, tmp_path / "alone", "dcp")
    done = together(2, "convert", str(source), str(tmp_path / "shared"), "--to", "dcp")
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    alone, shared = tensors_of(tmp_path / "alone"), tensors_of(tmp_path / "shared")
    assert alone.keys() == shared.keys() and all(torch.equal(alone[name], shared[name]) for name in alone)


def test_several_processes_are_refused_for_one_file_and_none_blames_the_tool(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), num_steps=1)
    done = together(2, "convert", str(source), str(tmp_path / "shared"), "--to", "huggingface")
    assert [one.returncode for one in done] == [2, 2]
    assert all("processes share" in one.stderr and len(one.stderr.splitlines()) == 1 for one in done)
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize("place", ["key", "file"])
def test_a_schedule_where_no_rule_knows_of_one_is_refused_when_rates_change(tmp_path: Path, place: str) -> None:
    schedule = torch.optim.lr_scheduler.LinearLR(trained()[1]).state_dict()
    small = plain(tmp_path / "small", **({"my_schedules": [schedule]} if place == "key" else {}))
    if place == "file":
        torch.save(schedule, small / "my_schedules")
    with pytest.raises(RequestError, match=r'drop=\("my_schedules"'):
        ckptgrow.width(small, tmp_path / "grown", request=MUP)
    ckptgrow.width(small, tmp_path / "kept")
    ckptgrow.width(small, tmp_path / "grown", request=StateRequest(lr_rule="mup", drop=("my_schedules",)))


def test_a_schedule_for_another_number_of_groups_is_refused(tmp_path: Path) -> None:
    """Flat states do not tell apart groups with equal options."""
    model = perturbed_gpt2()
    halves = [list(model.parameters())[:10], list(model.parameters())[10:]]
    optimizer = torch.optim.SGD([{"params": half} for half in halves], lr=1e-2, momentum=0.9)
    train(model, optimizer, token_batches(1))
    flat = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer).state_dict()
    state = {"model": get_model_state_dict(model), "optimizer": flat, "lr_scheduler": schedule}
    small = distributed(tmp_path / "small", state)
    with pytest.raises(RequestError, match="base_lrs has 2 entries, expected one for each of the optimizer's 1 groups"):
        ckptgrow.width(small, tmp_path / "grown")


def test_a_record_of_a_parameter_in_no_group_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained()
    state = get_optimizer_state_dict(model, optimizer)
    state["param_groups"][0]["params"].remove("transformer.wpe.weight")
    small = distributed(tmp_path / "small", {"model": get_model_state_dict(model), "optimizer": state})
    with pytest.raises(CheckpointError, match=r"state of transformer\.wpe\.weight"):
        ckptgrow.width(small, tmp_path / "grown")


def test_an_optimizers_own_state_with_its_numbers_grows(tmp_path: Path) -> None:
    """Torch turns its numbers into text."""
    model, optimizer = trained()
    small = distributed(tmp_path / "small", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    ckptgrow.width(small, tmp_path / "grown", noise=0)
    report = ckptgrow.verify(small, tmp_path / "grown")
    assert report.passed and report.moments is not None, report.sentences
    assert tensors_of(small).keys() == tensors_of(tmp_path / "grown").keys()


def test_a_numbered_optimizer_beside_a_full_state_grows(tmp_path: Path) -> None:
    model, optimizer = trained()
    (tmp_path / "small").mkdir()
    model.config.to_json_file(tmp_path / "small" / "config.json")
    torch.save(model.state_dict(), tmp_path / "small" / "pytorch_model_fsdp.bin")
    torch.save(optimizer.state_dict(), tmp_path / "small" / "optimizer.bin")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed
    assert 0 in torch.load(tmp_path / "grown" / "optimizer.bin", weights_only=True)["state"]


@pytest.mark.parametrize("shard", [10**9, 5_000], ids=["one file", "shards"])
def test_weights_beside_a_full_state_grow_with_it(tmp_path: Path, shard: int) -> None:
    model, optimizer = trained()
    small, grown = tmp_path / "small", tmp_path / "grown"
    model.save_pretrained(small, max_shard_size=shard)
    torch.save(model.state_dict(), small / "pytorch_model_fsdp.bin")
    torch.save(get_optimizer_state_dict(model, optimizer), small / "optimizer.bin")
    told: list[int] = []
    done = ckptgrow.width(
        small,
        grown,
        request=StateRequest(max_shard_bytes=shard),
        progress=lambda total: told.append(total) or (lambda amount: told.append(-amount)),  # type: ignore[func-returns-value]
    )
    assert not any("left behind" in note for note in done.notes)
    assert sum(told) == 0
    full = torch.load(grown / "pytorch_model_fsdp.bin", weights_only=True)
    found: dict[str, torch.Tensor] = {}
    for file in grown.glob("*.safetensors"):
        found |= load_file(file)
    assert found and all(torch.equal(full[name], tensor) for name, tensor in found.items())
    model.float().save_pretrained(small, max_shard_size=shard)
    with pytest.raises(CheckpointError, match="disagree"):
        ckptgrow.inspect(small)


class Evil:
    """Pickles as a call of what everyone has."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def test_copies_of_the_weights_in_any_file_are_refused_or_told(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    model.save_pretrained(tmp_path / "small")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(weights, tmp_path / "small" / "averaged")
    with pytest.raises(CheckpointError, match=r'drop=\("averaged"'):
        ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    (tmp_path / "small" / "averaged").unlink()
    torch.save(weights, tmp_path / "small" / "old.pt", _use_new_zipfile_serialization=False)
    mixed = tmp_path / "small" / "mixed.pt"
    torch.save({"ema": weights, "state": np.random.get_state()}, mixed)
    with pytest.raises(CheckpointError, match=r'drop=\("mixed\.pt"'):
        ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    torch.save({"ema": weights, "state": Evil()}, mixed)
    (tmp_path / "small" / "ema.pkl").write_bytes(pickle.dumps([one.numpy() for one in weights.values()]))
    done = ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    assert any("cannot be looked into: ema.pkl, mixed.pt, old.pt" in note for note in done.notes)


def test_conversions_list_the_files_schedules_and_directories_that_have_no_place(tmp_path: Path) -> None:
    small = plain(tmp_path / "small", train_state={"step": 3})
    (small / "tokenizer.json").write_text("{}")
    (small / "logs").mkdir()
    assert set(ckptgrow.convert(small, tmp_path / "a.ckpt", "lightning").left_out) == {"tokenizer.json", "logs"}
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["train_state"] == {"step": 3}
    left_out = ckptgrow.convert(small, tmp_path / "hf", "huggingface").left_out
    assert set(left_out) == {"tokenizer.json", "logs", "train_state"}
    model, optimizer = trained()
    model.save_pretrained(tmp_path / "accelerate")
    torch.save(optimizer.state_dict(), tmp_path / "accelerate" / "optimizer.bin")
    for name in ("scheduler.bin", "scheduler_1.bin"):
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer).state_dict()
        torch.save(schedule, tmp_path / "accelerate" / name)
    assert ckptgrow.convert(tmp_path / "accelerate", tmp_path / "one", "huggingface").left_out == ("scheduler 1",)
    assert {"scheduler.pt", "optimizer.pt"} <= {file.name for file in (tmp_path / "one").iterdir()}


def test_a_distributed_checkpoint_keeps_its_keys_config_and_empty_tensors(tmp_path: Path) -> None:
    model, optimizer = trained()
    flat = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    state = {**get_model_state_dict(model), "optimizer": flat, "extra": {"empty": torch.zeros(0, 3)}}
    small = distributed(tmp_path / "small", state)
    ckptgrow.convert(small, tmp_path / "same", "dcp")
    ckptgrow.width(small, tmp_path / "once")
    ckptgrow.depth(tmp_path / "once", tmp_path / "twice")
    assert tensors_of(tmp_path / "same").keys() == tensors_of(small).keys() == tensors_of(tmp_path / "once").keys()
    assert any("empty" in name for name in tensors_of(tmp_path / "twice"))
    assert json.loads((tmp_path / "twice" / "config.json").read_text())["n_layer"] == 4


def test_experts_that_lie_apart_stay_apart(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=31, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=2, head_dim=4,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "hf")
    model = MixtralForCausalLM(config)
    source = save_lightning(tmp_path / "small.ckpt", model)
    tree = torch.load(source, weights_only=True)
    tree["state_dict"] = {
        f"model.{name}": one for name, one in load_file(tmp_path / "hf" / "model.safetensors").items()
    }
    torch.save(tree, source)
    ckptgrow.convert(source, tmp_path / "dcp", "dcp")
    names = {name.split("', '")[1].rstrip("')") for name in tensors_of(tmp_path / "dcp")}
    assert names == set(tree["state_dict"]) and any("experts.1" in name for name in names)


@pytest.mark.parametrize("name", ["optimizer_states", "state_dict", "global_step"])
def test_parts_are_not_dropped_by_name(tmp_path: Path, name: str) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), num_steps=1)
    with pytest.raises(RequestError, match="reset"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", request=StateRequest(drop=(name,)))


def test_a_loss_scaler_that_is_dropped_is_gone(tmp_path: Path) -> None:
    scaler = {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), num_steps=1, MixedPrecision=scaler)
    ckptgrow.width(source, tmp_path / "grown.ckpt", request=StateRequest(drop=("MixedPrecision",)))
    assert "MixedPrecision" not in torch.load(tmp_path / "grown.ckpt", weights_only=True)


@pytest.mark.parametrize("kind", ["huggingface", "dcp"])
def test_a_bit_flipped_in_the_optimizer_is_found_by_checking(tmp_path: Path, kind: str) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), num_steps=1)
    ckptgrow.convert(source, tmp_path / kind, kind)
    state = open_state(tmp_path / kind).optimizers[0].state
    record: Any = next(record for name, record in state.items() if name.endswith("wte.weight"))["exp_avg"]
    stored = record.pieces[0].stored if kind == "dcp" else record
    ckptgrow.inspect(tmp_path / kind, check=True)
    with stored.path.open("r+b") as file:
        file.seek(stored.offset + 5)
        byte = file.read(1)
        file.seek(stored.offset + 5)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(CheckpointError, match="another checksum"):
        ckptgrow.inspect(tmp_path / kind, check=True)


def test_a_directory_of_local_states_alone_says_what_to_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small").mkdir()
    torch.save({}, tmp_path / "small" / "pytorch_model_fsdp_rank0.bin")
    assert run(["inspect", str(tmp_path / "small")]) == 2
    assert "FULL_STATE_DICT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("blocks", "covers"),
    [
        ([((0, 0), (2, 3)), ((2, 0), (2, 3))], True),
        ([((0, 0), (4, 1)), ((0, 1), (4, 2)), ((2, 0), (0, 3))], True),
        ([((0, 0), (2, 3)), ((1, 0), (2, 3))], False),
        ([((0, 0), (2, 3)), ((3, 0), (2, 3))], False),
        ([((0, 0), (2, 3))], False),
    ],
)
def test_blocks_must_cover_a_tensor_once(blocks: list[Any], covers: bool) -> None:
    pieces = [
        Piece(start=start, shape=shape, dtype=torch.float32, path=Path(), offset=0, length=0) for start, shape in blocks
    ]
    assert _cover(pieces, (4, 3)) is covers


def test_more_files_than_may_be_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_writing, "MOST_FILES", 2)
    perturbed_gpt2().save_pretrained(tmp_path / "small")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0, request=StateRequest(max_shard_bytes=9_000))
    assert len(list((tmp_path / "grown").glob("*.safetensors"))) > 4
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed


def test_an_output_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "small")
    shutil.copytree(tmp_path / "small", tmp_path / "grown")
    true = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial") and ".replaced" not in path.name:
            raise KeyboardInterrupt
        return true(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert run(["width", str(tmp_path / "small"), str(tmp_path / "grown"), "--force"]) == 130
    assert sorted(one.name for one in tmp_path.iterdir()) == ["grown", "small"]
    assert (tmp_path / "grown" / "model.safetensors").read_bytes() == (
        tmp_path / "small" / "model.safetensors"
    ).read_bytes()
