"""Verification is sharp on every stored number, whatever its size, dtype or operator, and silent where all is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.choices import VerifyDtype
from ckptgrow.verification.report import VerifyReport
from tests.helpers.gpt2 import POSITIONS, VOCABULARY, token_batches, train
from tests.helpers.lightning_files import save_lightning

Tree = dict[str, Any]
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LLAMA = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 20, "head_dim": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gemma": LLAMA,
    "opt": {**SIZES, "ffn_dim": 20, "word_embed_proj_dim": 16, "dropout": 0.0, "pad_token_id": 1},
    "gpt_neox": {**SIZES, "intermediate_size": 20},
}
DTYPES = {
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "bfloat16 with float32 moments": (torch.bfloat16, torch.float32),
    "float16 with float32 moments": (torch.float16, torch.float32),
    "float64 with bfloat16 moments": (torch.float64, torch.bfloat16),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": lambda named: torch.optim.AdamW(named, lr=1e-3, eps=1e-6),
    "SGD": lambda named: torch.optim.SGD(named, lr=1e-3, momentum=0.9),
    "RMSprop": lambda named: torch.optim.RMSprop(named, lr=1e-4, momentum=0.9),
    "Adagrad": lambda named: torch.optim.Adagrad(named, lr=1e-3),
}
GROWTHS: dict[str, Callable[..., Any]] = {
    "factor 2": ckptgrow.width,
    "factor 3, no separation": lambda old, new: ckptgrow.width(old, new, factor=3, noise=0),
    "factor 2, mup": lambda old, new: ckptgrow.width(old, new, request=StateRequest(lr_rule="mup")),
    "tile": lambda old, new: ckptgrow.width(old, new, how="tile"),
    "ffn by uneven copies": lambda old, new: ckptgrow.width(old, new, ffn=53),
    "pad": lambda old, new: ckptgrow.width(old, new, hidden=24, heads=6, how="pad"),
    "depth": ckptgrow.depth,
}


def perturbed(kind: str, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **FAMILIES[kind])
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.4))
    return model


def run(path: Path, kind: str = "llama", dtypes: str = "float64", optimizer: str = "AdamW", seed: int = 0) -> Path:
    """A run of five steps in float64, stored in the dtypes of weights and moments."""
    model = perturbed(kind, seed)
    steps = OPTIMIZERS[optimizer](list(model.named_parameters()))
    train(model, steps, token_batches(5))
    save_lightning(path, model, [steps])
    weights, moments = DTYPES[dtypes]

    def change(tree: Tree) -> None:
        tree["state_dict"] = {name: tensor.to(weights) for name, tensor in tree["state_dict"].items()}
        for record in tree["optimizer_states"][0]["state"].values():
            record.update(
                {key: value.to(moments) for key, value in record.items() if value is not None and value.dim()}
            )

    return tampered(path, change, path)


def tampered(path: Path, change: Callable[[Tree], object], target: Path | None = None) -> Path:
    tree = torch.load(path, weights_only=True)
    change(tree)
    torch.save(tree, target or path.with_name("tampered.ckpt"))
    return target or path.with_name("tampered.ckpt")


def record(tree: Tree, ending: str) -> dict[str, torch.Tensor]:
    state = tree["optimizer_states"][0]
    named = (
        (name, at)
        for group in state["param_groups"]
        for name, at in zip(group["param_names"], group["params"], strict=True)
    )
    return next(state["state"][at] for name, at in named if name.endswith(ending))


def verified(small: Path, grown: Path, steps: int = 0, dtype: VerifyDtype = "float64") -> VerifyReport:
    return ckptgrow.verify(small, grown, settings=Settings(batches=1, steps=steps, dtype=dtype))


def rare_tokens(tree: Tree) -> None:
    """Moments as those of tokens that came up long ago."""
    moments = record(tree, "embed_tokens.weight")
    moments["exp_avg_sq"][25:] *= 1e-9
    moments["exp_avg"][25:] *= 3e-5


@pytest.mark.sampled(4)
@pytest.mark.parametrize("growth", ["factor 2", "factor 3, no separation", "pad", "depth"])
@pytest.mark.parametrize("factor", [0.0, 100.0])
def test_second_moments_of_rare_tokens_are_judged_by_their_own_size(tmp_path: Path, growth: str, factor: float) -> None:
    small = tampered(run(tmp_path / "run.ckpt", dtypes="float32"), rare_tokens, tmp_path / "small.ckpt")
    GROWTHS[growth](small, tmp_path / "grown.ckpt")
    assert verified(small, tmp_path / "grown.ckpt").passed
    wrong = tampered(
        tmp_path / "grown.ckpt", lambda tree: record(tree, "embed_tokens.weight")["exp_avg_sq"][25:].mul_(factor)
    )
    report = verified(small, wrong)
    assert not report.passed and any("exp_avg_sq of model.model.embed_tokens" in one for one in report.sentences)


@pytest.mark.parametrize(("key", "factor"), [("exp_avg_sq", 4.0), ("exp_avg", 2.0), ("exp_avg_sq", 0.25)])
@pytest.mark.parametrize("dtypes", ["float64", "float32"])
def test_moments_of_gradients_that_are_rounding_alone_have_their_factor_too(
    tmp_path: Path, dtypes: str, key: str, factor: float
) -> None:
    """Softmax does not see the keys' biases, so autograd says nothing of them; the spaces do."""
    small = run(tmp_path / "small.ckpt", "opt", dtypes)
    ckptgrow.width(small, tmp_path / "grown.ckpt")
    assert verified(small, tmp_path / "grown.ckpt").passed
    wrong = tampered(tmp_path / "grown.ckpt", lambda tree: record(tree, "0.self_attn.k_proj.bias")[key].mul_(factor))
    assert not verified(small, wrong).passed


@pytest.mark.parametrize("growth", ["factor 2", "pad", "depth"])
def test_a_factor_on_one_tensor_and_its_inverse_on_another_are_seen(tmp_path: Path, growth: str) -> None:
    """The function, and with their moments the whole state, is one that some growth could have."""
    small = run(tmp_path / "small.ckpt")
    GROWTHS[growth](small, tmp_path / "grown.ckpt")

    def change(tree: Tree) -> None:
        for part, factor in (("up", 8.0), ("down", 1 / 8)):
            tree["state_dict"][f"model.model.layers.1.mlp.{part}_proj.weight"].mul_(factor)
            moments = record(tree, f"layers.1.mlp.{part}_proj.weight")
            moments["exp_avg"].div_(factor)
            moments["exp_avg_sq"].div_(factor**2)

    report = verified(small, tampered(tmp_path / "grown.ckpt", change))
    assert not report.passed and any("no one scale for every space" in one for one in report.sentences)


@pytest.mark.parametrize("growth", ["factor 2", "pad"])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_factor_on_the_last_gain_is_seen_where_the_function_is_coarse(tmp_path: Path, growth: str, kind: str) -> None:
    """Only the head reads what it writes, and a tied head is not a tensor of its own."""
    small = run(tmp_path / "small.ckpt", kind, "bfloat16 with float32 moments")
    GROWTHS[growth](small, tmp_path / "grown.ckpt")
    assert verified(small, tmp_path / "grown.ckpt").passed
    offset = 1.0 if kind == "gemma" else 0.0

    def change(tree: Tree) -> None:
        gain = tree["state_dict"]["model.model.norm.weight"]
        gain.copy_((gain + offset) * 1.03125 - offset)

    assert not verified(small, tampered(tmp_path / "grown.ckpt", change)).passed


@pytest.mark.parametrize("dtypes", ["bfloat16", "float32", "float64"])
def test_one_entry_by_one_last_place_is_seen_where_nothing_was_rounded(tmp_path: Path, dtypes: str) -> None:
    small = run(tmp_path / "small.ckpt", dtypes=dtypes)
    ckptgrow.width(small, tmp_path / "grown.ckpt")

    def change(tree: Tree) -> None:
        weight = tree["state_dict"]["model.model.layers.1.mlp.up_proj.weight"].view(-1)
        at = int(weight.abs().argmax())
        weight[at] *= (
            1 + 64 * torch.finfo(torch.float64).eps if dtypes == "float64" else 1 + torch.finfo(weight.dtype).eps
        )

    assert verified(small, tmp_path / "grown.ckpt").passed
    report = verified(small, tampered(tmp_path / "grown.ckpt", change))
    assert not report.passed and any("up_proj.weight: the weight differs" in one for one in report.sentences)


@pytest.mark.parametrize(("dtype", "noise"), [(torch.bfloat16, 1.0), (torch.float32, 4.0)])
def test_a_function_that_is_lost_to_rounding_fails(tmp_path: Path, dtype: torch.dtype, noise: float) -> None:
    torch.manual_seed(0)
    sizes = {**LLAMA, "hidden_size": 64, "num_hidden_layers": 12, "head_dim": 16, "intermediate_size": 172}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).to(dtype)
    small = save_lightning(tmp_path / "small.ckpt", model)
    ckptgrow.width(small, tmp_path / "noisy.ckpt", noise=noise)
    report = verified(small, tmp_path / "noisy.ckpt")
    assert report.function.relative > 1 and not report.function.passed
    ckptgrow.width(small, tmp_path / "split.ckpt")
    assert verified(small, tmp_path / "split.ckpt").passed


@pytest.mark.parametrize("growth", ["factor 2", "factor 3, no separation", "pad", "depth"])
def test_in_bfloat16_the_function_is_judged_by_the_small_models_own_error(tmp_path: Path, growth: str) -> None:
    small = run(tmp_path / "small.ckpt", dtypes="float32")
    GROWTHS[growth](small, tmp_path / "grown.ckpt")
    function = verified(small, tmp_path / "grown.ckpt", dtype="bfloat16").function
    assert function.passed and "the small model's own error in bfloat16" in function.judged
    assert 1e-4 < function.relative <= function.tolerance < 0.1

    def change(tree: Tree) -> None:
        tree["state_dict"]["model.model.norm.weight"] *= 1.5  # a config's field is named, and does not reach the models

    assert not verified(small, tampered(tmp_path / "grown.ckpt", change), dtype="bfloat16").function.passed


@pytest.mark.parametrize("noise", [0.05, 0.1, 2.0, 4.0])
@pytest.mark.parametrize("dtypes", ["float64", "float32"])
def test_noise_of_any_size_over_uneven_copies_is_no_alarm(tmp_path: Path, dtypes: str, noise: float) -> None:
    """Few columns have copies, and sums of small noise are often exact by chance."""
    small = run(tmp_path / "small.ckpt", "gpt_neox", dtypes)
    ckptgrow.width(small, tmp_path / "grown.ckpt", ffn=23, noise=noise)
    assert verified(small, tmp_path / "grown.ckpt").passed


@pytest.mark.parametrize("dtypes", ["float32", "bfloat16"])
def test_few_shares_that_are_rounded_are_no_alarm_among_many_that_are_exact(tmp_path: Path, dtypes: str) -> None:
    """Of 20 units one has three copies, whose shares no dtype holds; halves are exact, and are judged so."""
    small = run(tmp_path / "small.ckpt", dtypes=dtypes)
    ckptgrow.width(small, tmp_path / "grown.ckpt", ffn=41, noise=0)
    assert verified(small, tmp_path / "grown.ckpt").passed


@pytest.mark.parametrize("growth", ["factor 3, no separation", "factor 2, mup"])
def test_rounded_moments_do_not_part_the_trajectories(tmp_path: Path, growth: str) -> None:
    small = run(tmp_path / "small.ckpt", dtypes="float64 with bfloat16 moments")
    GROWTHS[growth](small, tmp_path / "grown.ckpt")
    assert verified(small, tmp_path / "grown.ckpt", steps=3).passed


def entry_of_a_weight(tree: Tree, small: Tree, random: Random) -> str:
    """Of the old ones: what an entry that copies nothing was drawn as, nobody needs to know."""
    shapes = {name: one.shape for name, one in small["state_dict"].items() if one.dim() > 1}
    olds = {name: tree["state_dict"][name][:rows, :columns] for name, (rows, columns) in shapes.items()}
    name, old = random.choice([(name, old) for name, old in olds.items() if bool(old.any())])
    row, column = random.choice((old.abs() > 0.3 * old.abs().max()).nonzero().tolist())
    old[row, column] *= 1.05
    return name


def entry_of_a_moment(tree: Tree, small: Tree, random: Random) -> str:
    known = [
        (record, key)
        for record in tree["optimizer_states"][0]["state"].values()
        for key, value in record.items()
        if value is not None and value.dim() and bool((value != 0).any())
    ]
    record_, key = random.choice(known)
    flat = record_[key].view(-1)
    smallest = torch.finfo(flat.dtype).smallest_normal
    at = random.choice((flat.abs() > 4 * smallest).nonzero().flatten().tolist())
    flat[at] *= 1.05
    return key


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_drawn_growths_pass_and_drawn_changes_do_not(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    kind, dtypes, optimizer = (random.choice(list(known)) for known in (FAMILIES, DTYPES, OPTIMIZERS))
    growth = random.choice([one for one in GROWTHS if kind != "opt" or one != "pad"])
    if optimizer == "RMSprop" and growth == "factor 2, mup":
        growth = "factor 2"
    drawn = f"seed {seed}: {kind}, {dtypes}, {optimizer}, {growth}"
    small = run(tmp_path / "small.ckpt", kind, dtypes, optimizer, seed)
    GROWTHS[growth](small, tmp_path / "grown.ckpt")
    report = verified(small, tmp_path / "grown.ckpt")
    assert report.passed, (drawn, report.sentences)
    for change in (entry_of_a_weight, entry_of_a_moment):
        tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
        said = change(tree, torch.load(small, weights_only=True), random)
        torch.save(tree, tmp_path / "wrong.ckpt")
        assert not verified(small, tmp_path / "wrong.ckpt").passed, (drawn, change.__name__, said)
