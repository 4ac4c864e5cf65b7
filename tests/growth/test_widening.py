"""Width growth against real AdamW optimizers and transformers' own forward pass, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.growth.request import StateRequest
from tests.helpers.gpt2 import language_loss, largest_logit_difference, perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import load_model, save_lightning, trained_checkpoint
from tests.helpers.optimizers import resumed, stored
from tests.helpers.state_requests import MUP


def blocks(tensor: torch.Tensor, factor: int, old_shape: torch.Size) -> list[torch.Tensor]:
    """The factor^n blocks of a grown tensor, of the sizes of the old one (fused projections are cut finer)."""
    parts = [tensor]
    for axis, (new, old) in enumerate(zip(tensor.shape, old_shape, strict=True)):
        pieces = new // (old // 3) if old % 9 == 0 and new != old else (factor if new != old else 1)
        parts = [piece for part in parts for piece in part.chunk(pieces, dim=axis)]
    return parts


def worst_block_error(found: torch.Tensor, expected: torch.Tensor, factor: int, old_shape: torch.Size) -> float:
    pairs = zip(blocks(found, factor, old_shape), blocks(expected, factor, old_shape), strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def is_key_bias(name: str) -> bool:
    return name.endswith("c_attn.bias")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("how", ["diagonal", "tile"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_function_and_moments_are_those_of_a_real_adamw_in_the_grown_model(
    tmp_path: Path, factor: int, how: Any, tied: bool
) -> None:
    small = perturbed_gpt2(tie_word_embeddings=tied)
    source = trained_checkpoint(tmp_path / "small.ckpt", small)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, how=how, noise=0)
    grown, tree = load_model(tmp_path / "grown.ckpt")
    assert grown.config.n_embd == 12 * factor and grown.config.n_head == 3 * factor
    assert largest_logit_difference(small, grown) <= 1e-12

    real = torch.optim.AdamW(grown.parameters(), lr=0.0)
    train(grown, real, token_batches(5))
    stored = tree["optimizer_states"][0]["state"]
    old_shapes = {name: parameter.shape for name, parameter in small.named_parameters()}
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        for key in ("exp_avg", "exp_avg_sq"):
            found, expected = stored[index][key], real.state[parameter][key]
            if is_key_bias(name):  # the keys' part has gradient zero: compare absolutely
                assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
            else:
                assert worst_block_error(found, expected, factor, old_shapes[name]) <= 1e-9, (name, key)
        assert float(stored[index]["step"]) == 5


@pytest.mark.parametrize("how", ["diagonal", "tile"])
@pytest.mark.parametrize("optimizer", ["AdamW", "amsgrad", "SGD"])
def test_under_mup_the_grown_run_has_the_small_runs_losses(tmp_path: Path, optimizer: str, how: Any) -> None:
    def build(parameters: Any) -> torch.optim.Optimizer:
        if optimizer == "SGD":
            return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=0.1)
        return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.1, eps=1e-6, amsgrad=optimizer == "amsgrad")

    small = perturbed_gpt2()
    source = trained_checkpoint(tmp_path / "small.ckpt", small, build)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=3, how=how, noise=0, request=MUP)
    batches = token_batches(50, seed=3)
    small_losses = train(small, resumed(small, stored(source)[0], build), batches)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    grown_losses = train(grown, resumed(grown, stored(tmp_path / "grown.ckpt")[0], build), batches)
    assert small_losses[-1] < small_losses[0]
    assert max(abs(one - other) for one, other in zip(small_losses, grown_losses, strict=True)) <= 1e-10


def test_mup_groups_are_one_a_learning_rate_epsilon_and_decay_with_matching_schedulers(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    train(model, optimizer, token_batches(2))
    schedule.step()
    source = save_lightning(tmp_path / "small.ckpt", model, [optimizer], [schedule])
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=MUP)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    groups = tree["optimizer_states"][0]["param_groups"]
    kinds = [(group["lr"], group["eps"], group["weight_decay"]) for group in groups]
    assert len(set(kinds)) == len(kinds) > 1
    assert sorted(number for group in groups for number in group["params"]) == list(range(28))
    assert all(len(group["param_names"]) == len(group["params"]) for group in groups)
    assert tree["lr_schedulers"][0]["base_lrs"] == [group["initial_lr"] for group in groups]
    assert tree["lr_schedulers"][0]["_last_lr"] == [group["lr"] for group in groups]
    final_norm = next(group for group in groups if "model.transformer.ln_f.weight" in group["param_names"])
    assert final_norm["initial_lr"] == 5e-4 and final_norm["eps"] == 1e-8


@pytest.mark.parametrize("factor", [2, 3])
def test_noise_separates_the_copies_and_leaves_the_function(tmp_path: Path, factor: int) -> None:
    small = perturbed_gpt2()
    source = trained_checkpoint(tmp_path / "small.ckpt", small)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, noise=1.0)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    assert largest_logit_difference(small, grown) <= 1e-12
    weight = grown.transformer.h[0].mlp.c_fc.weight.detach()
    first, second = weight[:12, :20], weight[12:24, 20:40]
    assert float((first - second).abs().mean() / first.abs().mean()) > 0.3


def test_noise_has_the_size_that_was_asked_for_and_another_for_every_seed(tmp_path: Path) -> None:
    small = perturbed_gpt2(n_embd=48, n_inner=96)
    source = save_lightning(tmp_path / "small.ckpt", small)
    found: dict[tuple[float, int], torch.Tensor] = {}
    for noise, seed in ((0.0, 0), (0.5, 0), (0.5, 1)):
        ckptgrow.width(source, tmp_path / "grown.ckpt", noise=noise, seed=seed, request=StateRequest(force=True))
        found[noise, seed] = load_model(tmp_path / "grown.ckpt")[0].transformer.h[1].mlp.c_fc.weight.detach()
    old = small.transformer.h[1].mlp.c_fc.weight.detach()
    for seed in (0, 1):
        term = found[0.5, seed] - found[0.0, 0]
        ratio = float(term.square().mean().sqrt() / old.square().mean().sqrt())
        assert ratio == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(found[0.5, 0], found[0.5, 1])


@pytest.mark.parametrize(("noise", "exceeds"), [(1.0, True), (0.0, False)])
def test_only_with_noise_does_the_rank_of_hidden_states_outgrow_the_small_model(
    tmp_path: Path, noise: float, exceeds: bool
) -> None:
    """100 AdamW steps without dropout, then the numerical rank of the last hidden states over many tokens."""
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=noise)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    train(grown, torch.optim.AdamW(grown.parameters(), lr=2e-3), token_batches(100, seed=5))
    with torch.no_grad():
        tokens = torch.cat(token_batches(20, seed=9))
        hidden = grown.transformer(input_ids=tokens).last_hidden_state.flatten(0, 1)
    spectrum = torch.linalg.svdvals(hidden)
    rank = int((spectrum > 1e-9 * spectrum[0]).sum())
    assert (rank > 12) is exceeds


def test_the_loss_falls_when_training_goes_on_with_noise(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=1.0)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    batch = token_batches(1)[0]
    before = float(language_loss(grown, batch).detach())
    losses = train(grown, torch.optim.AdamW(grown.parameters(), lr=1e-3), [batch] * 30)
    assert losses[0] == pytest.approx(before, rel=1e-12) and losses[-1] < before


@pytest.mark.parametrize("ffn", [21, 33, 47, 60])
def test_feed_forward_units_grow_to_any_size_with_moments(tmp_path: Path, ffn: int) -> None:
    small = perturbed_gpt2()
    source = trained_checkpoint(tmp_path / "small.ckpt", small)
    ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=ffn, noise=0)
    grown, tree = load_model(tmp_path / "grown.ckpt")
    assert grown.config.n_inner == ffn and grown.config.n_embd == 12
    assert largest_logit_difference(small, grown) <= 1e-12
    real = torch.optim.AdamW(grown.parameters(), lr=0.0)
    train(grown, real, token_batches(5))
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        for key in ("exp_avg", "exp_avg_sq"):
            found, expected = tree["optimizer_states"][0]["state"][index][key], real.state[parameter][key]
            assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max()), name


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_forward_module.module."])
def test_any_prefix_is_understood(tmp_path: Path, prefix: str) -> None:
    small = perturbed_gpt2()
    tensors = {prefix + name: tensor for name, tensor in small.state_dict().items()}
    source = save_lightning(tmp_path / "small.ckpt", small, state_dict=tensors)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
    grown = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    assert list(grown) == list(tensors)
    assert grown[prefix + "transformer.wte.weight"].shape == (31, 24)


def test_a_tied_head_stays_one_tensor(tmp_path: Path) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
    grown = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    assert grown["model.lm_head.weight"].data_ptr() == grown["model.transformer.wte.weight"].data_ptr()


def test_old_buffers_are_carried_as_they_are(tmp_path: Path) -> None:
    small = perturbed_gpt2()
    tensors = {f"model.{name}": tensor for name, tensor in small.state_dict().items()}
    mask = torch.ones(16, 16, dtype=torch.uint8).tril().reshape(1, 1, 16, 16)
    tensors |= {f"model.transformer.h.{layer}.attn.bias": mask for layer in range(2)}
    tensors |= {f"model.transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(2)}
    source = save_lightning(tmp_path / "small.ckpt", small, state_dict=tensors)
    ckptgrow.width(source, tmp_path / "wide.ckpt", noise=0)
    ckptgrow.depth(source, tmp_path / "deep.ckpt")
    wide, deep = (torch.load(tmp_path / name, weights_only=True)["state_dict"] for name in ("wide.ckpt", "deep.ckpt"))
    assert torch.equal(wide["model.transformer.h.1.attn.bias"], mask)
    assert torch.equal(deep["model.transformer.h.3.attn.bias"], mask)
    assert float(deep["model.transformer.h.3.attn.masked_bias"]) == -1e4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_stay_and_powers_of_two_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    small = perturbed_gpt2().to(dtype)
    source = save_lightning(tmp_path / "small.ckpt", small)
    ckptgrow.width(source, tmp_path / "grown.ckpt", how="tile", noise=0)
    grown = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    found = grown["model.transformer.h.0.mlp.c_fc.weight"]
    assert found.dtype == dtype
    assert torch.equal(found, (small.transformer.h[0].mlp.c_fc.weight.detach() / 2).repeat(2, 2))
