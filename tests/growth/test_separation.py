"""What tells the copies apart: exact in every dtype, and seen by the gradients of every matrix."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import ckptgrow
from ckptgrow.cli import run
from tests.helpers.families import (
    CASES,
    UNWIDENED,
    batches,
    difference,
    loaded,
    outputs,
    perturbed,
    still,
    still_run,
    trained,
)
from tests.helpers.lightning_files import save_lightning

QUICK = ("gpt2", "llama", "gemma2", "mixtral", "t5")
WIDER = [
    pytest.param(case, marks=() if case in QUICK else pytest.mark.slow)
    for case in CASES
    if case not in UNWIDENED and case != "olmo tied"  # whose final norm has no gain
]
FIELDS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
TOKENS = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(1))


def fresh_llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **FIELDS)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def llama_in(path: Path) -> PreTrainedModel:
    """A file's model with its weights in float32, which holds those of fewer bits exactly."""
    tree = torch.load(path, weights_only=True)
    config = AutoConfig.for_model(**tree["hyper_parameters"]["config"])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tree["state_dict"].items()})
    return model.eval()


def error(model: PreTrainedModel, exact: PreTrainedModel) -> float:
    with torch.no_grad():
        found, expected = (one(input_ids=TOKENS).logits.double() for one in (model, exact))
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", WIDER)
def test_the_default_keeps_the_function_of_every_family(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    assert not ckptgrow.width(source, tmp_path / "grown.ckpt").trapped
    grown, _ = loaded(tmp_path / "grown.ckpt")
    assert difference(small, grown)[0] <= 1e-12
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


@pytest.mark.parametrize("case", WIDER)
def test_the_copies_of_every_matrix_between_copies_get_different_gradients(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt")
    grown, _ = loaded(tmp_path / "grown.ckpt")
    tokens = batches(1)[0]
    logits = outputs(grown, tokens)
    labels = torch.arange(logits[..., 0].numel()) % logits.shape[-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels).backward()
    twice = [one for one in grown.parameters() if one.dim() == 2 and one.grad is not None and bool((one == 0).any())]
    alike = [one for one in twice if _copies_agree(one.grad)]
    # under a tied head the last block's outputs are read alike; the blocks below part them one step later
    assert len(twice) > 3 and len(alike) <= 2


def _copies_agree(gradient: Any) -> bool:
    rows, columns = gradient.shape
    by_rows = rows % 2 == 0 and torch.allclose(gradient[: rows // 2], gradient[rows // 2 :])
    by_columns = columns % 2 == 0 and torch.allclose(gradient[:, : columns // 2], gradient[:, columns // 2 :])
    return by_rows and by_columns


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fresh_deep_llama_rounds_as_the_small_one_does(tmp_path: Path, stored: torch.dtype) -> None:
    source = save_lightning(tmp_path / "small.ckpt", fresh_llama().to(stored))
    ckptgrow.width(source, tmp_path / "grown.ckpt")
    small, grown = llama_in(source), llama_in(tmp_path / "grown.ckpt")
    exact = copy.deepcopy(small).double()
    own = error(copy.deepcopy(small).bfloat16(), exact)
    assert error(copy.deepcopy(grown).bfloat16(), exact) <= 1.5 * own
    assert error(copy.deepcopy(grown).double(), exact) <= 1e-6  # of the casts to float32 inside
    for name, weight in grown.named_parameters():
        old = small.get_parameter(name)
        values = set(old.detach().double().abs().flatten().tolist()) | {0.0}
        assert set(weight.detach().double().abs().flatten().tolist()) <= values, name


@pytest.mark.parametrize("spread", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_in_the_file_the_shares_of_any_spread_sum_to_the_old_weights_to_the_bit(
    tmp_path: Path, stored: torch.dtype, spread: float
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**FIELDS, "num_hidden_layers": 1})
    small = AutoModelForCausalLM.from_config(config).to(stored)
    source = save_lightning(tmp_path / "small.ckpt", small)
    record = ckptgrow.width(source, tmp_path / "grown.ckpt", spread=spread).record
    assert (record["separate"], record["spread"]) == ("split", spread)
    grown = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    num_shared = 0
    for name, old in small.named_parameters():
        new = grown[f"model.{name}"].double()
        assert grown[f"model.{name}"].dtype == stored
        if old.dim() == 2 and "embed" not in name:
            rows, columns = old.shape
            shares = new.reshape(-1, rows, 2, columns)
            num_shared += int((shares.abs() > 0).all(2).sum())
            assert torch.equal(shares.sum(2), old.detach().double().expand(len(shares), -1, -1)), name
    assert num_shared > 1000


@pytest.mark.sampled(20)
@pytest.mark.parametrize("case", WIDER)
def test_the_largest_spread_keeps_the_function_of_every_family(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    factor = 3 if case == "llama" else 2
    # the drawn share is twice the weight; gated T5's sharp scores make much of rounding, which this multiplies by 3;
    # and so do products of three
    spread = {"llama": 1.25, "t5 gated": 1.0, "lfm2 untied": 1.0}.get(case, 1.5)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, spread=spread)
    grown, _ = loaded(tmp_path / "grown.ckpt")
    assert difference(small, grown)[0] <= 1e-12
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


@pytest.mark.parametrize("sizes", [{"factor": 2}, {"factor": 3}, {"ffn": 33}])
def test_over_the_copies_of_an_output_true_gradients_sum_to_what_the_moments_sum_to(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    """Each copy's own gradient is that of other parts of the old readers; together they are the old one."""
    source = still_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.width(source, tmp_path / "grown.ckpt", spread=1.0, **sizes)
    grown, tree = loaded(tmp_path / "grown.ckpt")
    real = still(grown.parameters())
    trained(grown, real, batches(5))
    apart = 0
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        stored, found = tree["optimizer_states"][0]["state"][index]["exp_avg"], real.state[parameter]["exp_avg"]
        old = {"up_proj": 20, "gate_proj": 20, "o_proj": 16, "q_proj": 16, "down_proj": 16}.get(name.split(".")[-2])
        if old is not None:
            number = torch.arange(len(stored)) % old
            sums = [torch.zeros(old, stored.shape[1]).double().index_add_(0, number, one) for one in (stored, found)]
            torch.testing.assert_close(sums[0], sums[1], rtol=0, atol=1e-12 * float(sums[1].abs().max()))
            apart += not torch.allclose(stored, found, rtol=0.1)
    assert apart >= (4 if "ffn" in sizes else 8)


def test_gradients_of_the_copies_differ_in_every_matrix_of_the_llama(tmp_path: Path) -> None:
    source = save_lightning(tmp_path / "small.ckpt", fresh_llama())
    ckptgrow.width(source, tmp_path / "grown.ckpt")
    grown = llama_in(tmp_path / "grown.ckpt").double()
    grown(input_ids=TOKENS, labels=TOKENS).loss.backward()
    for name, parameter in grown.named_parameters():
        if parameter.dim() == 2 and "lm_head" not in name:  # whose outputs have no copies and whose inputs agree
            gradient = parameter.grad
            assert gradient is not None
            swapped = gradient if "embed" in name else gradient.roll(gradient.shape[0] // 2, 0)
            swapped = swapped.roll(gradient.shape[1] // 2, 1)
            assert float((gradient - swapped).norm() / gradient.norm()) >= 0.3, name


@pytest.mark.parametrize(
    ("option", "strength", "warned"), [("--noise", "0.25", False), ("--noise", "2", True), ("--spread", "1", False)]
)
def test_growth_by_what_multiplies_rounding_tells_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, strength: str, warned: bool
) -> None:
    source = save_lightning(tmp_path / "small.ckpt", fresh_llama())
    assert run(["width", str(source), str(tmp_path / "grown.ckpt"), option, strength]) == 0
    told = capsys.readouterr().out
    assert "in bfloat16 precision" in told and ("beyond what bfloat16 bears" in told) is warned


def test_a_number_for_noise_is_its_strength_and_zero_separates_nothing(tmp_path: Path) -> None:
    source = save_lightning(tmp_path / "small.ckpt", fresh_llama())
    records = [
        ckptgrow.width(source, tmp_path / f"{index}.ckpt", **asked).record
        for index, asked in enumerate(({}, {"noise": 0.5}, {"noise": 0}, {"separate": "noise"}, {"separate": "none"}))
    ]
    found = [(record["separate"], record["noise"]) for record in records]
    assert found == [("split", 0.0), ("noise", 0.5), ("none", 0.0), ("noise", 0.25), ("none", 0.0)]
