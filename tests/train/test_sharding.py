"""Sharded runs in real processes: the losses, states and checkpoints of one device, which may go on as either."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.errors import RequestError
from ckptgrow.state.model import build_model
from ckptgrow.train.sharding import check_cut
from tests.helpers.commands import refused
from tests.helpers.training_runs import losses, tiny_data, train_here, train_in_process, weights

LLAMA: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
}
ROUNDING = 1e-5  # of float32 sums in another order, over six steps; losses are near 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    config = data.parent / "llama.json"
    config.write_text(json.dumps(LLAMA))
    return [f"--data={data}", f"--config={config}", "--train-steps=6", "--save-every=3", "--grad-clip=0.5"]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on one device."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, "--batch-size=4", f"--out={out}"])
    return out


def assert_close(found: Path, expected: Path) -> None:
    """Two runs' losses from where both are on, and their last checkpoints: weights, moments by number, groups."""
    common = losses(found).keys() & losses(expected).keys()
    assert common and all(abs(losses(found)[step] - losses(expected)[step]) < ROUNDING for step in common)
    trees = [torch.load(one / "checkpoints" / "last.ckpt", weights_only=True) for one in (found, expected)]
    states = [tree["optimizer_states"][0] for tree in trees]
    keys = [[{"lr": one["lr"], "params": one["params"]} for one in state["param_groups"]] for state in states]
    assert keys[0] == keys[1] and states[0]["state"].keys() == states[1]["state"].keys()
    assert list(trees[0]["state_dict"]) == list(trees[1]["state_dict"])
    for name, one in trees[0]["state_dict"].items():
        assert type(one) is torch.Tensor and (one - trees[1]["state_dict"][name]).abs().max() < 1e-4, name
    for number, one in states[0]["state"].items():
        for key, value in one.items():
            assert torch.allclose(value, states[1]["state"][number][key], rtol=1e-3, atol=1e-7), (number, key)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--devices=2", "--batch-size=2"], id="shards"),
        pytest.param(["--devices=2", "--batch-size=4", "--tensor-parallel=2"], id="cut"),
        pytest.param(["--devices=4", "--batch-size=2", "--tensor-parallel=2"], id="both", marks=pytest.mark.slow),
        pytest.param(["--devices=2", "--batch-size=1", "--grad-accum=2"], id="accumulated", marks=pytest.mark.slow),
    ],
)
def test_it_is_the_run_of_one_device_and_goes_on_to_the_bit(
    tmp_path: Path, base: list[str], whole: Path, options: list[str]
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    train_in_process([*base, f"--out={out}", "--strategy=fsdp", *options])
    assert_close(out, whole)
    source = f"--resume={out / 'checkpoints' / 'step-3.ckpt'}"
    train_in_process([base[0], source, f"--out={again}", "--strategy=fsdp", *options])
    assert losses(again) == {step: loss for step, loss in losses(out).items() if step > 3}
    last, same = (weights(one / "checkpoints" / "last.ckpt") for one in (out, again))
    assert all(torch.equal(last[name], same[name]) for name in last)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_it_trains_in_bfloat16(tmp_path: Path, base: list[str], whole: Path, precision: str) -> None:
    options = ["--devices=2", "--batch-size=2", "--strategy=fsdp", f"--precision={precision}"]
    train_in_process([*base, f"--out={tmp_path}", *options])
    assert all(abs(losses(tmp_path)[step] - loss) < 0.05 for step, loss in losses(whole).items())  # of 5.5 to 5.1


def test_grown_and_foreign_checkpoints_go_on_in_shards_as_on_one_device(
    tmp_path: Path, base: list[str], whole: Path
) -> None:
    grown, trainer = tmp_path / "grown.ckpt", tmp_path / "trainer"
    ckptgrow.width(whole / "checkpoints" / "step-3.ckpt", grown)
    assert ckptgrow.verify(whole / "checkpoints" / "step-3.ckpt", grown).passed
    ckptgrow.convert(grown, trainer, "huggingface")
    for number, source in enumerate((grown, trainer)):
        more = ["--schedule=constant"] if source == trainer else []
        outs = tmp_path / f"one-{number}", tmp_path / f"two-{number}"
        train_here([base[0], f"--resume={source}", f"--out={outs[0]}", "--stop-at=5", "--batch-size=4", *more])
        shards = ["--devices=2", "--batch-size=2", "--strategy=fsdp"]
        train_in_process([base[0], f"--resume={source}", f"--out={outs[1]}", "--stop-at=5", *shards, *more])
        assert_close(outs[1], outs[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tensor-parallel=2"], ["--tensor-parallel 2", "--strategy fsdp"]),
        (["--tensor-parallel=2", "--strategy=fsdp"], ["--tensor-parallel 2", "1 devices", "divisor"]),
        (
            ["--tensor-parallel=2", "--strategy=fsdp", "--devices=2", "--dropout=0.1"],
            ["--tensor-parallel 2", "dropout"],
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(
    tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    refused(["train", *base, f"--out={tmp_path / 'out'}", "--accelerator=cpu", *options], capsys, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1, expected a multiple of 2"),
        ({"intermediate_size": 25}, "intermediate_size is 25, expected a multiple of 2"),
        ({"model_type": "qwen3"}, "replicated_with_grad_allreduce"),
        ({"model_type": "bloom"}, "no plan for bloom"),
    ],
)
def test_a_model_without_a_plan_of_columns_and_rows_is_refused(changed: Mapping[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_cut(build_model({**LLAMA, **changed}, torch.float32), 2)
