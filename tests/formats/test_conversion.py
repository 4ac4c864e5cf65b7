"""Between formats and back: every parameter, moment and step bit for bit; both sides' own loaders read the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import ckptgrow
from ckptgrow.errors import RequestError
from tests.builders import perturbed_gpt2, save_lightning, token_batches, train, trained_checkpoint
from tests.core.test_lightning import FIXTURE, make, resume

__all__ = ["make"]


def by_name(tree: dict[str, Any], optimizer: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Every parameter's tensors under its module's name."""
    found: dict[str, Any] = {name.removeprefix(prefix): tensor for name, tensor in tree.items()}
    names = [name for group in optimizer["param_groups"] for name in group["param_names"]]
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    for name, number in zip(names, numbers, strict=True):
        for key, value in optimizer["state"][number].items():
            found[f"{key} of {name.removeprefix(prefix)}"] = value
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_round_trip_is_bit_equal(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    model = perturbed_gpt2(tie_word_embeddings=tied).to(dtype)
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    train(model, optimizer, token_batches(2))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
    source = save_lightning(tmp_path / "one.ckpt", model, [optimizer], [schedule], callbacks={"mine": {"best": 1.5}})
    there = ckptgrow.convert(source, tmp_path / "two", to="huggingface")
    ckptgrow.convert(tmp_path / "two", tmp_path / "three.ckpt", to="lightning")
    assert any("callbacks" in name for name in there.lost) and there.new_kind == "trainer"
    one, three = (torch.load(tmp_path / name, weights_only=True) for name in ("one.ckpt", "three.ckpt"))
    one["optimizer_states"][0]["param_groups"][0]["param_names"] = [name for name, _ in model.named_parameters()]
    before, after = (by_name(tree["state_dict"], tree["optimizer_states"][0], "model.") for tree in (one, three))
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert three["global_step"] == 5 and three["lr_schedulers"] == one["lr_schedulers"]
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "two", output_loading_info=True, dtype="auto")
    assert not info["missing_keys"] and not info["unexpected_keys"] and loaded.dtype == dtype


def test_lightning_resumes_what_came_from_a_directory(tmp_path: Path, make: Any) -> None:
    ckptgrow.convert(FIXTURE, tmp_path / "there", to="huggingface")
    ckptgrow.convert(tmp_path / "there", tmp_path / "back.ckpt", to="lightning")
    runner, model, rates = resume(make, tmp_path / "back.ckpt", 5)
    expected_runner, expected, expected_rates = resume(make, FIXTURE, 5)
    assert runner.global_step == expected_runner.global_step == 305
    assert model.losses == pytest.approx(expected.losses, rel=1e-6)
    assert rates == pytest.approx(expected_rates, rel=1e-12)


def test_a_kind_is_not_converted_into_itself(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "one.ckpt", perturbed_gpt2())
    with pytest.raises(RequestError, match="already"):
        ckptgrow.convert(source, tmp_path / "two.ckpt", to="lightning")
