"""What accelerate writes, alone and under FSDP: real trainings saved by it, grown, and gone on with by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.cli import run
from ckptgrow.errors import CheckpointError
from ckptgrow.state.opening import open_state
from ckptgrow.storage.tensors import whole
from tests.helpers.distributed import tensors_of
from tests.helpers.gpt2 import gpt2_config, language_loss, perturbed_gpt2, token_batches, train
from tests.helpers.processes import completed, ranks, together

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
SHARDED, FULL = "SHARDED_STATE_DICT", "FULL_STATE_DICT"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(gpt2_config().to_dict()))
    return path


def stepped(accelerator: Accelerator, model: Any, optimizer: Any, scheduler: Any, seed: int) -> list[float]:
    losses: list[float] = []
    for tokens in token_batches(4, seed):
        optimizer.zero_grad()
        loss = language_loss(model, tokens)
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def prepared(accelerator: Accelerator, width: int, groups: list[list[str]] | None = None) -> tuple[Any, Any, Any]:
    model = perturbed_gpt2(n_embd=12 * width, n_head=3 * width, n_inner=20 * width)
    named = dict(model.named_parameters())
    parameters = [{"params": [named[name] for name in group]} for group in groups or [list(named)]]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
    return accelerator.prepare(model, optimizer, scheduler)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_a_saved_state_grows_and_its_run_goes_on(tmp_path: Path, config: Path, safe: bool) -> None:
    accelerator = Accelerator(cpu=True)
    parts = prepared(accelerator, 1)
    stepped(accelerator, *parts, seed=1)
    accelerator.save_state(tmp_path / "small", safe_serialization=safe)
    expected = stepped(accelerator, *parts, seed=2)
    assert (tmp_path / "small" / "optimizer.bin").exists()

    request = StateRequest(lr_rule="mup", config=config)
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0, request=request)
    report = ckptgrow.verify(tmp_path / "small", tmp_path / "grown", config=config, settings=Settings(steps=3))
    assert report.passed, report.sentences
    assert ckptgrow.inspect(tmp_path / "grown").kind == "accelerate"
    names = {file.name for file in (tmp_path / "grown").iterdir()}
    assert names >= {"model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "config.json"}
    assert not names & {"optimizer.pt", "scheduler.pt", "pytorch_model.bin"}

    accelerator = Accelerator(cpu=True)
    groups = [list(group.names) for group in open_state(tmp_path / "grown").optimizers[0].groups]
    parts = prepared(accelerator, 2, groups)
    accelerator.load_state(tmp_path / "grown")
    assert stepped(accelerator, *parts, seed=2) == pytest.approx(expected, abs=1e-10)


def fsdp(phase: str, layout: tuple[int, str], directory: Path, width: int) -> list[float]:
    """A real FSDP training in two processes; the losses that it goes on with."""
    arguments = [phase, str(layout[0]), layout[1], str(directory), str(width)]
    for one in completed("tests.helpers.fsdp_run", arguments, ranks(2)):
        assert one.returncode == 0, one.stderr
    return json.loads(Path(f"{directory}.losses.json").read_text())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, str]], Path]:
    """The directory that a run of a layout saved."""

    @cache
    def directory(layout: tuple[int, str]) -> Path:
        path = tmp_path_factory.mktemp("fsdp") / "small"
        fsdp("save", layout, path, 1)
        (path / "notes.txt").write_text("mine")
        return path

    return directory


def grown_from(small: Path, grown: Path, config: Path) -> list[list[str]]:
    """Grows and verifies; the names in the grown optimizer's groups."""
    ckptgrow.width(small, grown, noise=0, request=StateRequest(lr_rule="mup", config=config))
    names = {file.name for file in small.iterdir()}
    assert {file.name for file in grown.iterdir()} == {*names, "config.json", "ckptgrow.json"}
    report = ckptgrow.verify(small, grown, config=config, settings=Settings(steps=3))
    assert report.passed, report.sentences
    return [list(group.names) for group in open_state(grown).optimizers[0].groups]


@pytest.mark.parametrize("version", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_sharded_run_goes_on_in_the_grown_model_as_in_the_small_one(
    tmp_path: Path, config: Path, saved: Callable[[tuple[int, str]], Path], version: int
) -> None:
    """Both are resumed by accelerate: what it resumes under FSDP 1 is not what it had saved, in either of them."""
    layout = (version, SHARDED)
    small, grown = saved(layout), tmp_path / "grown"
    groups = grown_from(small, grown, config)
    assert ckptgrow.inspect(grown, check=True).kind == "fsdp"
    Path(f"{grown}.groups.json").write_text(json.dumps(groups))
    expected = fsdp("load", layout, small, 1)
    assert fsdp("load", layout, grown, 2) == pytest.approx(expected, abs=1e-10)


def test_a_full_state_goes_on_in_the_grown_model(
    tmp_path: Path, config: Path, saved: Callable[[tuple[int, str]], Path]
) -> None:
    """Read by torch alone, in one process: accelerate's own loading of these hangs on gloo."""
    small, grown = saved((2, FULL)), tmp_path / "grown"
    expected = json.loads(Path(f"{small}.losses.json").read_text())
    groups = grown_from(small, grown, config)
    assert ckptgrow.inspect(grown, check=True).kind == "accelerate"
    model = perturbed_gpt2(n_embd=24, n_head=6, n_inner=40)
    model.load_state_dict(torch.load(grown / "pytorch_model_fsdp.bin", weights_only=True))
    named = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([{"params": [named[name] for name in group]} for group in groups])
    set_optimizer_state_dict(model, optimizer, torch.load(grown / "optimizer.bin", weights_only=True))
    assert train(model, optimizer, token_batches(4, seed=2)) == pytest.approx(expected, abs=1e-10)


def test_several_processes_grow_an_fsdp_directory(
    tmp_path: Path, config: Path, saved: Callable[[tuple[int, str]], Path]
) -> None:
    small = saved((2, SHARDED))
    ckptgrow.width(small, tmp_path / "alone", request=StateRequest(config=config))
    done = together(2, "width", str(small), str(tmp_path / "shared"), "--config", str(config))
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert (tmp_path / "shared" / "notes.txt").read_text() == "mine"
    for part in ("pytorch_model_fsdp_0", "optimizer_0"):
        alone, shared = tensors_of(tmp_path / "alone" / part), tensors_of(tmp_path / "shared" / part)
        assert alone.keys() == shared.keys() and all(torch.equal(alone[name], shared[name]) for name in alone)
        assert len(list((tmp_path / "shared" / part).glob("*.distcp"))) == 2


@pytest.mark.parametrize("kind", [SHARDED, FULL])
def test_an_fsdp_directory_becomes_a_trainers(
    tmp_path: Path, config: Path, saved: Callable[[tuple[int, str]], Path], kind: str
) -> None:
    small = saved((2, kind))
    ckptgrow.convert(small, tmp_path / "hf", "huggingface", config=config)
    assert {file.name for file in (tmp_path / "hf").iterdir()} == {
        *("model.safetensors", "optimizer.pt", "config.json", "notes.txt"),
    }
    old, new = open_state(small, config=config), open_state(tmp_path / "hf")
    assert old.optimizers[0].names == new.optimizers[0].names
    for name, tensor in new.checkpoint.tensors.items():
        assert torch.equal(whole(tensor), whole(old.checkpoint.tensors[name]))
    for name, record in new.optimizers[0].state.items():
        for key, value in record.items():
            assert torch.equal(whole(value), whole(old.optimizers[0].state[name][key])), (name, key)


def test_one_processs_part_of_a_state_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "small")
    torch.save({}, tmp_path / "small" / "optimizer_0_rank1.bin")
    assert run(["width", str(tmp_path / "small"), str(tmp_path / "grown")]) == 2
    assert "optimizer_0_rank1.bin" in capsys.readouterr().err and not (tmp_path / "grown").exists()


def test_two_kinds_of_optimizer_files_are_refused(tmp_path: Path) -> None:
    perturbed_gpt2().save_pretrained(tmp_path / "small")
    for name in ("optimizer.pt", "optimizer.bin"):
        torch.save({"state": {}, "param_groups": []}, tmp_path / "small" / name)
    with pytest.raises(CheckpointError, match=r"holds optimizer\.bin, optimizer\.pt"):
        ckptgrow.inspect(tmp_path / "small")


def test_a_custom_object_with_a_copy_of_the_weights_is_refused_by_its_file(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    model.save_pretrained(tmp_path / "small")
    shadow = {"shadow_params": [parameter.detach().clone() for parameter in model.parameters()], "decay": 0.999}
    torch.save(shadow, tmp_path / "small" / "custom_checkpoint_0.pkl")
    with pytest.raises(CheckpointError, match=r'drop=\("custom_checkpoint_0\.pkl"'):
        ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    request = StateRequest(drop=("custom_checkpoint_0.pkl",))
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", request=request)
    assert not (tmp_path / "grown" / "custom_checkpoint_0.pkl").exists()


def test_a_flat_optimizer_beside_a_model_at_the_top_grows(tmp_path: Path) -> None:
    """The layout of torchtitan's checkpoints."""
    model = perturbed_gpt2()
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 0.1}, {"params": others}], lr=1e-2, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
    train(model, optimizer, token_batches(2))
    flat = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    state = {
        **get_model_state_dict(model),
        "optimizer": flat,
        "lr_scheduler": scheduler.state_dict(),
        "train_state": {"step": 2},
    }
    dcp.save(state, checkpoint_id=tmp_path / "small", no_dist=True)
    (tmp_path / "small" / "config.json").write_text(json.dumps(model.config.to_dict()))
    (tmp_path / "small" / "tokenizer.json").write_text("{}")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0, request=StateRequest(lr_rule="mup"))
    report = ckptgrow.verify(tmp_path / "small", tmp_path / "grown", settings=Settings(steps=3))
    assert report.passed, report.sentences
    assert (tmp_path / "grown" / "tokenizer.json").read_text() == "{}"
    old, new = tensors_of(tmp_path / "small"), tensors_of(tmp_path / "grown")
    assert old.keys() == new.keys()
    twice = tmp_path / "twice"
    ckptgrow.depth(tmp_path / "grown", twice)
    assert ckptgrow.verify(tmp_path / "grown", twice).passed
    schedule = ckptgrow.inspect(twice).schedule
    assert schedule is not None and schedule["last_epoch"] == 0
