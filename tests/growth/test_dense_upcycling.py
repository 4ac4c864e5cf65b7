"""Mixtures out of dense models: function, moments and files against transformers' own routers and autograd."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import ckptgrow
from ckptgrow import RequestError
from ckptgrow.cli import run
from ckptgrow.errors import OptimizerError
from ckptgrow.families.registry import FAMILIES
from ckptgrow.growth.request import StateRequest
from ckptgrow.recipes.growth_recipe import GrowthRecipe, recorded_recipe
from ckptgrow.state.mixture_config import mixtures_of
from tests.helpers.commands import refused
from tests.helpers.families import CASES, FIRST, batches, generated, loaded, perturbed, still, trained, widened
from tests.helpers.family_checks import check_function, check_verified
from tests.helpers.lightning_files import save_lightning

DENSE: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # by case: the family that it becomes, and other fields
    "llama": ("mixtral", {}),
    "llama tied": ("mixtral", {}),
    "llama long heads": ("mixtral", {}),
    "mistral": ("mixtral", {}),
    "qwen3": ("qwen3_moe", {}),
    "granite": ("granitemoe", {"mlp_bias": False, "attention_bias": True}),
}
SHARED = {"qwen2": "qwen2_moe", "llama": "qwen2_moe"}  # with an expert that every token has
OF_TOKENS = [(4, 2, 1), (6, 2, 2), (8, 4, 2)]  # experts, of which a token has, parts of a block
OF_ALL = [(4, 4, 4), (4, 4, 1), (8, 8, 2)]  # those of which every token has all: their moments are exact
QUIET = {"router_noise": 0.0}


def small_run(path: Path, case: str, num_steps: int = 5) -> Path:
    """A model and the moments of an AdamW that moved nothing."""
    small = dense(case)
    optimizer = still(small.parameters())
    trained(small, optimizer, batches(num_steps))
    return save_lightning(path, small, [optimizer])


def dense(case: str) -> PreTrainedModel:
    return perturbed(case, **DENSE[case][1]) if case in DENSE else perturbed(case)


def with_real(path: Path, num_steps: int = 5) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """By parameter of a grown model: its record, and that of a real AdamW that saw the same batches there."""
    grown, tree = loaded(path)
    real = still(grown.parameters())
    trained(grown, real, batches(num_steps))
    stored = tree["optimizer_states"][0]["state"]
    return [(name, stored[index], real.state[one]) for index, (name, one) in enumerate(grown.named_parameters())]


def is_new(name: str) -> bool:
    return name.endswith(("mlp.gate.weight", "router.weight", "shared_expert_gate.weight"))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", DENSE)
@pytest.mark.parametrize(("experts", "chosen", "parts"), [*OF_TOKENS, OF_ALL[0]])
def test_a_dense_model_and_the_mixture_of_its_blocks_compute_the_same(
    tmp_path: Path, case: str, experts: int, chosen: int, parts: int
) -> None:
    source = small_run(tmp_path / "small.ckpt", case)
    told = ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=experts, experts_per_token=chosen, shards=parts)
    grown = check_function(dense(case), tmp_path / "grown.ckpt")
    assert grown.config.model_type == DENSE[case][0] and grown.config.num_experts_per_tok == chosen
    assert (told.old["ffn"], told.new["ffn"], told.new["experts"]) == (20, 20 // parts, experts)
    assert not told.trapped
    check_verified(source, tmp_path / "grown.ckpt")


WITHOUT = [one for one in FIRST if "experts" not in FAMILIES[CASES[one][0]].sizes and not mixtures_of(CASES[one][0])]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", WITHOUT)
def test_dense_models_of_which_no_mixture_has_the_other_parts_are_refused(tmp_path: Path, case: str) -> None:
    save_lightning(tmp_path / "small.ckpt", perturbed(case))
    with pytest.raises(RequestError, match=rf"no mixture has the attention and norms of {CASES[case][0]}"):
        ckptgrow.experts(tmp_path / "small.ckpt", tmp_path / "grown.ckpt", experts=8)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize(("experts", "chosen", "parts"), [(5, 2, 1), (8, 3, 4)])
def test_behind_a_gate_of_its_own_the_block_is_the_expert_that_every_token_has(
    tmp_path: Path, case: str, experts: int, chosen: int, parts: int
) -> None:
    source = small_run(tmp_path / "small.ckpt", case)
    options = {"experts": experts, "experts_per_token": chosen, "shards": parts, "to": SHARED[case]}
    ckptgrow.experts(source, tmp_path / "grown.ckpt", **options)
    grown = check_function(perturbed(case), tmp_path / "grown.ckpt")
    assert grown.config.shared_expert_intermediate_size == 20 and grown.config.moe_intermediate_size == 20 // parts
    assert not any(one.any() for name, one in grown.named_parameters() if name.endswith("experts.down_proj"))
    check_verified(source, tmp_path / "grown.ckpt")
    for name, stored, real in with_real(tmp_path / "grown.ckpt"):
        is_silent = is_new(name) or "mlp.experts." in name
        for key in ("exp_avg", "exp_avg_sq"):
            if is_silent:
                assert not stored[key].any() and float(stored["step"]) == 0
            else:
                largest = max(float(real[key].abs().max()), 1e-12)  # key biases have no gradient but rounding
                assert float((stored[key] - real[key]).abs().max()) <= 1e-9 * largest, (name, key)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", DENSE)
@pytest.mark.parametrize(("experts", "chosen", "parts"), OF_ALL)
def test_where_every_token_has_all_experts_moments_are_those_of_a_real_adamw(
    tmp_path: Path, case: str, experts: int, chosen: int, parts: int
) -> None:
    source = small_run(tmp_path / "small.ckpt", case)
    options = {"experts": experts, "experts_per_token": chosen, "shards": parts, **QUIET}
    told = ckptgrow.experts(source, tmp_path / "grown.ckpt", **options)
    assert told.trapped == (experts > parts)  # copies under equal weights; parts of one block differ
    check_verified(source, tmp_path / "grown.ckpt")
    for name, stored, real in with_real(tmp_path / "grown.ckpt"):
        for key in ("exp_avg", "exp_avg_sq"):
            if is_new(name):
                assert not stored[key].any() and float(stored["step"]) == 0
            else:
                assert float(stored["step"]) == 5
                assert float((stored[key] - real[key]).abs().max()) <= 1e-9 * float(real[key].abs().max()), (name, key)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", DENSE)
@pytest.mark.parametrize(("experts", "chosen", "parts"), OF_TOKENS)
def test_where_tokens_have_some_experts_first_moments_sum_to_those_of_a_real_adamw(
    tmp_path: Path, case: str, experts: int, chosen: int, parts: int
) -> None:
    source = small_run(tmp_path / "small.ckpt", case, num_steps=20)
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=experts, experts_per_token=chosen, shards=parts)
    for name, stored, real in with_real(tmp_path / "grown.ckpt", num_steps=20):
        if is_new(name):
            continue
        if "experts" not in name:
            assert float((stored["exp_avg"] - real["exp_avg"]).abs().max()) <= 1e-9 * float(real["exp_avg"].abs().max())
            continue
        both = [one["exp_avg"].unflatten(0, (-1, parts)).sum(0) for one in (stored, real)]  # over the copies
        assert float((both[0] - both[1]).abs().max()) <= 1e-9 * float(both[1].abs().max()), name
        ratio = float(stored["exp_avg_sq"].mean() / real["exp_avg_sq"].mean())
        assert 0.7 <= ratio <= 1.4, (name, ratio)  # the gradients of 20 batches of 24 tokens are not uncorrelated


def test_copies_that_see_other_tokens_part_and_the_router_learns_to_part_them(tmp_path: Path) -> None:
    source = small_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=4)
    grown, _ = loaded(tmp_path / "grown.ckpt")
    before = [one.clone() for name, one in grown.named_parameters() if name.endswith("mlp.gate.weight")]
    losses = trained(grown, torch.optim.AdamW(grown.parameters(), lr=1e-3), 20 * batches(1))
    assert losses[-1] < losses[0]
    down = dict(grown.named_parameters())["model.layers.0.mlp.experts.down_proj"]
    assert all(not torch.equal(down[0], down[other]) for other in (1, 2, 3))
    after = [one for name, one in grown.named_parameters() if name.endswith("mlp.gate.weight")]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", [*DENSE, "qwen2"])
def test_directories_have_the_mixtures_own_names_load_with_nothing_missing_and_write_the_same_text(
    tmp_path: Path, case: str
) -> None:
    small = dense(case)
    small.save_pretrained(tmp_path / "small")
    (tmp_path / "small" / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    ckptgrow.experts(tmp_path / "small", tmp_path / "grown", experts=8, shards=2)
    config = AutoConfig.from_pretrained(tmp_path / "grown")
    grown, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "grown", dtype=torch.float64, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert config.architectures == [type(grown).__name__]
    assert torch.equal(generated(small), generated(widened(grown)))
    assert (tmp_path / "grown" / "tokenizer.json").read_bytes() == (tmp_path / "small" / "tokenizer.json").read_bytes()
    grown.save_pretrained(tmp_path / "again")
    assert names_in(tmp_path / "again") == names_in(tmp_path / "grown")
    check_verified(tmp_path / "small", tmp_path / "grown")


def names_in(directory: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(directory / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize(
    ("case", "options", "reason"),
    [
        ("olmo2", {"experts": 8}, "no mixture has the attention and norms of olmo2, expected .* mixtral"),
        ("qwen3", {"experts": 8, "to": "olmoe"}, r"to=.olmoe.: its blocks are not those of qwen3 .*expected qwen3_moe"),
        ("llama", {"experts": 8, "to": "llama"}, "is no family of mixtures"),
        ("llama", {"experts": 7, "shards": 2}, "experts=7: expected a whole multiple of shards=2"),
        ("llama", {"experts": 6, "shards": 3}, "shards=3: .* has 20 units"),
        ("llama", {"experts": 8, "shards": 2, "experts_per_token": 3}, "only where a token has all 2 parts"),
        ("llama", {"experts": 4, "experts_per_token": 5}, "at most the number of experts, 4"),
        ("llama", {"experts": 4, "router_noise": 0.0}, "every token would have the same 2 of 4"),
        ("llama", {"experts": 4, "spread": 0.5}, "different tokens tell them apart"),
        ("llama", {"experts": 4, "separate": "split"}, "different tokens tell them apart"),
        ("llama biased", {"experts": 4}, "attention_bias True, expected False"),
        ("granite", {"experts": 4, "to": "granitemoe"}, "mlp_bias True, expected False"),
        ("mixtral", {"experts": 6, "to": "qwen2_moe"}, "is a mixture already"),
        ("mixtral", {"experts": 6, "shards": 2}, "is a mixture already"),
    ],
)
def test_what_would_not_be_the_same_function_is_refused_with_what_would(
    tmp_path: Path, case: str, options: dict[str, Any], reason: str
) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed(case))
    with pytest.raises(RequestError, match=reason):
        ckptgrow.experts(source, tmp_path / "grown.ckpt", **options)
    assert not (tmp_path / "grown.ckpt").exists()


def test_rates_that_no_rule_keeps_and_optimizers_of_matrices_alone_are_refused(tmp_path: Path) -> None:
    source = small_run(tmp_path / "small.ckpt", "llama")
    with pytest.raises(RequestError, match="see different tokens"):
        ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=4, request=StateRequest(lr_rule="mup"))
    small = perturbed("llama")
    adafactor = torch.optim.Adafactor(small.parameters())
    trained(small, adafactor, batches(2))
    save_lightning(tmp_path / "factored.ckpt", small, [adafactor])
    with pytest.raises(OptimizerError, match="cannot be parted among experts"):
        ckptgrow.experts(tmp_path / "factored.ckpt", tmp_path / "grown.ckpt", experts=4)
    matrices = [one for name, one in small.named_parameters() if "mlp" in name]
    muon = torch.optim.Muon(matrices)
    others = torch.optim.AdamW([one for name, one in small.named_parameters() if "mlp" not in name])
    trained(small, muon, batches(2))
    trained(small, others, batches(2))
    save_lightning(tmp_path / "muon.ckpt", small, [muon, others])
    with pytest.raises(OptimizerError, match="Muon, which takes matrices"):
        ckptgrow.experts(tmp_path / "muon.ckpt", tmp_path / "grown.ckpt", experts=4)
    with pytest.raises(RequestError, match="keeps its class"):
        ckptgrow.grow(small, experts=4)


class Grown:
    """What stands where in a grown file that is to be spoilt."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.weights, self.config = tree["state_dict"], tree["hyper_parameters"]["config"]
        self.record = tree["ckptgrow"]["history"][0]
        layer = "model.model.layers.0.mlp."
        self.gate_up, self.down, self.router = (
            layer + name for name in ("experts.gate_up_proj", "experts.down_proj", "gate.weight")
        )
        self.state, self.names = tree["optimizer_states"][0]["state"], list(self.weights)

    def moments(self, name: str) -> dict[str, torch.Tensor]:
        return self.state[self.names.index(name)]

    def exchange(self, *names: str) -> None:
        """The two parts of the first copy."""
        for name in names:
            self.weights[name] = self.weights[name][[1, 0, 2, 3, 4, 5, 6, 7]]


PLANTED: Mapping[str, Callable[[Grown], object]] = {
    "a scaled expert": lambda one: one.weights[one.down][5].mul_(1.01),
    "swapped parts": lambda one: one.exchange(one.down),
    "all of a copy's parts in another order": lambda one: one.exchange(one.down, one.gate_up),
    "parts without their factor": lambda one: one.weights[one.down].div_(2),
    "a router's row of one part": lambda one: one.weights[one.router][3].add_(0.01),
    "another strength of the router": lambda one: one.weights[one.router].mul_(3),
    "a lost moment": lambda one: one.moments(one.down)["exp_avg"][2].zero_(),
    "a moment of another size": lambda one: one.moments(one.down)["exp_avg_sq"][2].mul_(2),
    "a moment of the router": lambda one: one.moments(one.router)["exp_avg"].add_(1e-6),
    "a step of the router": lambda one: one.moments(one.router)["step"].add_(5),
    "how many are chosen": lambda one: one.config.update(num_experts_per_tok=2),
    "how many are chosen and recorded": lambda one: [
        place.update({name: 3})
        for place, name in ((one.config, "num_experts_per_tok"), (one.record, "experts_per_token"))
    ],
    "the parts in the record": lambda one: one.record.update(shards=4),
    "an angle": lambda one: one.config["rope_parameters"].update(rope_theta=1e6),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_wrong_is_found(tmp_path: Path, what: str) -> None:
    source = small_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=8, experts_per_token=4, shards=2)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    PLANTED[what](Grown(tree))
    torch.save(tree, tmp_path / "wrong.ckpt")
    try:
        report = ckptgrow.verify(source, tmp_path / "wrong.ckpt")
    except ckptgrow.CkptgrowError:
        return
    assert not report.passed


def test_averages_become_mixtures_with_the_routers_of_the_model(tmp_path: Path) -> None:
    source = small_run(tmp_path / "small.ckpt", "llama")
    tree = torch.load(source, weights_only=True)
    tree["state_dict"] |= {
        name.replace("model.", "average.", 1): 1.01 * one for name, one in tree["state_dict"].items()
    }
    torch.save(tree, source)
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=8, shards=2)
    check_verified(source, tmp_path / "grown.ckpt")
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    average = "average.model.layers.1.mlp."
    assert torch.equal(
        tree["state_dict"][average + "gate.weight"],
        tree["state_dict"][average.replace("average", "model") + "gate.weight"],
    )
    for spoilt in ("gate.weight", "experts.down_proj"):
        other = {**tree["state_dict"], average + spoilt: 1.1 * tree["state_dict"][average + spoilt]}
        torch.save({**tree, "state_dict": other}, tmp_path / "wrong.ckpt")
        assert not ckptgrow.verify(source, tmp_path / "wrong.ckpt").passed


@pytest.mark.parametrize("parts", [2, 5])  # times 5, weights are rounded
def test_a_checkpoint_in_bfloat16_keeps_its_function_up_to_one_rounding_of_its_weights(
    tmp_path: Path, parts: int
) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed("llama").to(torch.bfloat16))
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=2 * parts, shards=parts)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt")
    assert report.passed and report.function is not None
    assert report.function.relative <= (1e-12 if parts == 2 else 2e-2)


def test_its_recipe_makes_the_same_file_again_and_the_command_says_what_it_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = small_run(tmp_path / "small.ckpt", "llama")
    words = ["experts", str(source), str(tmp_path / "grown.ckpt"), "--experts", "8", "--shards", "2", "--top-k", "4"]
    assert run([*words, "--router-noise", "0.1", "--seed", "3", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"]["to"] == "mixtral" and told["recipe"]["router_noise"] == 0.1
    assert not (tmp_path / "grown.ckpt").exists()
    assert run([*words, "--router-noise", "0.1", "--seed", "3"]) == 0
    assert "llama → mixtral, ffn 20 → 10, experts none → 8" in capsys.readouterr().out
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    recipe = recorded_recipe(tree["ckptgrow"]["history"][0])
    options = {name: value for name, value in recipe.items() if name != "operator"}
    GrowthRecipe(recipe["operator"], options).grow(source, tmp_path / "again.ckpt")
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "grown.ckpt").read_bytes()
    refused([*words[:2], str(tmp_path / "other.ckpt"), *words[3:5], "--to", "olmoe"], capsys, "--to olmoe", "mixtral")


def test_a_mixture_that_was_dense_grows_on_and_each_growth_is_verified_on_its_own(tmp_path: Path) -> None:
    source = small_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.experts(source, tmp_path / "mixture.ckpt", experts=4)
    ckptgrow.width(tmp_path / "mixture.ckpt", tmp_path / "wide.ckpt", factor=2, how="tile", separate="none")
    check_function(perturbed("llama"), tmp_path / "wide.ckpt")
    check_verified(tmp_path / "mixture.ckpt", tmp_path / "wide.ckpt")
    ckptgrow.experts(tmp_path / "mixture.ckpt", tmp_path / "more.ckpt", experts=8)
    check_function(perturbed("llama"), tmp_path / "more.ckpt")
    check_verified(tmp_path / "mixture.ckpt", tmp_path / "more.ckpt")
    with pytest.raises(RequestError, match="verify each growth on its own"):
        ckptgrow.verify(source, tmp_path / "wide.ckpt")
