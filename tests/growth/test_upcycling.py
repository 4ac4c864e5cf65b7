"""More experts in a mixture: function, moments, trajectory and files against transformers' own routers and autograd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import ckptgrow
from ckptgrow import RequestError, VerifySettings
from ckptgrow.cli import run
from ckptgrow.families.registry import FAMILIES
from ckptgrow.growth.request import StateRequest
from ckptgrow.recipes.growth_recipe import GrowthRecipe, recorded_recipe
from tests.helpers.commands import refused
from tests.helpers.families import (
    CASES,
    adamw,
    batches,
    generated,
    loaded,
    perturbed,
    reloaded,
    saved,
    still_run,
    trained,
)
from tests.helpers.family_checks import check_function, check_moments, check_verified
from tests.helpers.lightning_files import save_lightning
from tests.helpers.optimizers import resumed

REFUSED = {  # cases of mixtures whose experts cannot be copied exactly, with the reason
    "phimoe": "masks every score that is not near the largest",
    "phimoe tied": "masks every score that is not near the largest",
    "lfm2_moe": "divided by their sum and 1e-6",
    "lfm2_moe untied": "divided by their sum and 1e-6",
    "granitemoehybrid without experts": "has no experts",
    "jamba of one expert": "has no experts",
    "nemotron_h of states": "has no experts",
    "nemotron_h dense": "has no experts",
}
MIXTURES = [case for case, (name, _) in CASES.items() if "experts" in FAMILIES[name].sizes and case not in REFUSED]


def num_experts(model: PreTrainedModel) -> int:
    """How many experts a layer has: as many as its fused tensors have matrices."""
    return next(len(one) for name, one in model.named_parameters() if name.endswith("down_proj") and one.dim() == 3)


@pytest.mark.parametrize("case", REFUSED)
def test_experts_whose_copies_would_weigh_otherwise_are_refused(tmp_path: Path, case: str) -> None:
    save_lightning(tmp_path / "small.ckpt", perturbed(case))
    with pytest.raises(RequestError, match=REFUSED[case]):
        ckptgrow.experts(tmp_path / "small.ckpt", tmp_path / "grown.ckpt", experts=8)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", MIXTURES)
@pytest.mark.parametrize("times", [2, 3])
def test_copies_of_experts_keep_the_function_and_grow_the_moments_of_a_real_adamw(
    tmp_path: Path, case: str, times: int
) -> None:
    small, source = perturbed(case), still_run(tmp_path / "small.ckpt", case)
    number, chosen = num_experts(small), small.config.num_experts_per_tok
    told = ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=number * times, separate="none")
    assert told.trapped and told.new["experts"] == number * times
    grown = check_function(small, tmp_path / "grown.ckpt")
    assert grown.config.num_experts_per_tok == chosen * times
    check_moments(tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", MIXTURES)
@pytest.mark.parametrize(("times", "spread"), [(2, None), (2, 1.0), (3, None)])
def test_copies_of_experts_that_are_told_apart_keep_the_function_too(
    tmp_path: Path, case: str, times: int, spread: float | None
) -> None:
    small, source = perturbed(case), still_run(tmp_path / "small.ckpt", case)
    number = num_experts(small)
    told = ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=number * times, spread=spread)
    assert not told.trapped
    grown = check_function(small, tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")
    down = next(one for name, one in grown.named_parameters() if name.endswith("down_proj"))
    assert not torch.equal(down[0], down[number])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", MIXTURES)
def test_under_mup_the_run_with_more_experts_has_the_small_runs_losses(tmp_path: Path, case: str) -> None:
    source = saved(tmp_path / "small.ckpt", perturbed(case), adamw)
    request = StateRequest(lr_rule="mup")
    more = 2 * num_experts(perturbed(case))
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=more, separate="none", request=request)
    samples = batches(20, seed=3)
    runs = [
        trained(model, resumed(model, tree["optimizer_states"][0], adamw), samples)
        for model, tree in (loaded(source), loaded(tmp_path / "grown.ckpt"))
    ]
    assert max(abs(one - other) for one, other in zip(*runs, strict=True)) <= 1e-9
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=VerifySettings(steps=3))
    assert report.passed, report.sentences


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", MIXTURES)
def test_directories_with_more_experts_load_with_nothing_missing_and_write_the_same_text(
    tmp_path: Path, case: str
) -> None:
    small = perturbed(case)
    small.save_pretrained(tmp_path / "small")
    ckptgrow.experts(tmp_path / "small", tmp_path / "grown", experts=2 * num_experts(small))
    grown = reloaded(small, tmp_path / "grown")
    assert torch.equal(generated(small), generated(grown))
    check_verified(tmp_path / "small", tmp_path / "grown")


def test_in_memory_and_by_its_recipe_a_mixture_grows_to_the_same_numbers(tmp_path: Path) -> None:
    source = still_run(tmp_path / "small.ckpt", "mixtral")
    told = ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=6, spread=1.0, seed=4)
    written = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    grown = ckptgrow.grow(loaded(source)[0], experts=6, spread=1.0, seed=4)
    state = grown.model.state_dict()
    assert all(torch.equal(one, written["state_dict"][f"model.{name}"]) for name, one in state.items())
    recipe = recorded_recipe(told.record)
    options = {name: value for name, value in recipe.items() if name != "operator"}
    GrowthRecipe(recipe["operator"], options).grow(source, tmp_path / "again.ckpt")
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "grown.ckpt").read_bytes()


@pytest.mark.parametrize(
    ("case", "options", "reason"),
    [
        ("mixtral", {"experts": 7}, "expected a whole multiple of the old number, 3"),
        ("mixtral", {"experts": 3}, "expected a whole multiple of the old number, 3"),
        ("mixtral", {"experts": 6, "experts_per_token": 2}, "experts_per_token=2.*expected 4"),
        ("mixtral", {"experts": 6, "separate": "none", "spread": 1.0}, "is of separate=.split."),
        ("mixtral", {"experts": 6, "spread": 2.0}, "at most 1.5"),
        ("mixtral", {"experts": 900}, "at most 256 copies"),
    ],
)
def test_numbers_by_which_the_function_would_change_are_refused(
    tmp_path: Path, case: str, options: dict[str, Any], reason: str
) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match=reason):
        ckptgrow.experts(source, tmp_path / "grown.ckpt", **options)
    assert not (tmp_path / "grown.ckpt").exists()


def planted(tree: dict[str, Any], what: str) -> None:
    layer, moments = "model.model.layers.0.mlp.", tree["optimizer_states"][0]["state"]
    config, history = tree["hyper_parameters"]["config"], tree["ckptgrow"]["history"]
    shape = tree["state_dict"][layer + "experts.down_proj"].shape
    number = next(index for index, one in moments.items() if one["exp_avg"].shape == shape)
    match what:
        case "an expert":
            tree["state_dict"][layer + "experts.down_proj"][4] *= 1.01
        case "a router's row":
            tree["state_dict"][layer + "gate.weight"][4] += 0.01
        case "a moment":
            moments[number]["exp_avg"][4] *= 3.0
        case "how many are chosen":
            config["num_experts_per_tok"] = 2
        case "the record":
            history[0]["separate"], history[0]["spread"] = "none", 0.0


@pytest.mark.parametrize("what", ["an expert", "a router's row", "a moment", "how many are chosen", "the record"])
def test_what_is_planted_wrong_is_found(tmp_path: Path, what: str) -> None:
    source = still_run(tmp_path / "small.ckpt", "mixtral")
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=6)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    planted(tree, what)
    torch.save(tree, tmp_path / "wrong.ckpt")
    assert not ckptgrow.verify(source, tmp_path / "wrong.ckpt").passed


@pytest.mark.parametrize("what", ["a choice", "groups", "chosen groups"])
def test_a_choice_that_is_planted_wrong_is_found(tmp_path: Path, what: str) -> None:
    source = still_run(tmp_path / "small.ckpt", "deepseek_v3")
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=8)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    match what:
        case "a choice":
            tree["state_dict"]["model.model.layers.1.mlp.gate.e_score_correction_bias"][5] += 1e-6
        case "groups":
            tree["hyper_parameters"]["config"]["n_group"] = 2
        case "chosen groups":
            tree["hyper_parameters"]["config"]["topk_group"] = 1
    torch.save(tree, tmp_path / "wrong.ckpt")
    assert not ckptgrow.verify(source, tmp_path / "wrong.ckpt").passed


def test_a_bias_beside_shares_of_one_sum_shrinks_with_them(tmp_path: Path) -> None:
    """ERNIE's softmax gives each of two copies half of the old share, and so the bias must weigh half as much."""
    source = still_run(tmp_path / "small.ckpt", "ernie4_5_moe")
    ckptgrow.experts(source, tmp_path / "grown.ckpt", experts=6)
    before, after = (loaded(one)[0].state_dict() for one in (source, tmp_path / "grown.ckpt"))
    name = "model.layers.1.mlp.gate.moe_statics.e_score_correction_bias"
    assert before[name].any() and torch.equal(after[name], torch.cat([before[name] / 2] * 2, 1))


def test_the_command_grows_says_what_it_would_do_and_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = still_run(tmp_path / "small.ckpt", "mixtral")
    words = ["experts", str(source), str(tmp_path / "grown.ckpt")]
    assert run([*words, "--experts", "6", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["experts"] == 6 and not (tmp_path / "grown.ckpt").exists()
    assert run([*words, "--experts", "6"]) == 0
    assert "experts 3 → 6" in capsys.readouterr().out
    refused([*words[:2], str(tmp_path / "other.ckpt")], capsys, "Missing option '--experts'")
    refused([*words[:2], str(tmp_path / "other.ckpt"), "--experts", "4"], capsys, "--experts 4: expected a whole")
