"""Layouts that few configs of a family have: norms after each block or without gains, stacks of different depths."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import ckptgrow
from ckptgrow.errors import RequestError
from ckptgrow.families.registry import FAMILIES
from ckptgrow.growth.request import StateRequest
from ckptgrow.growth.shrinking import shrunken_spaces
from ckptgrow.state.architecture import Architecture
from tests.helpers.families import (
    CASES,
    COMMON,
    TIED_WITHOUT_A_GAIN,
    UNWIDENED,
    VARIANTS,
    adamw,
    batches,
    built,
    difference,
    loaded,
    perturbed,
    reloaded,
    saved,
    still_run,
    trained,
)
from tests.helpers.family_checks import check_depth, check_function, check_moments, check_verified, check_width
from tests.helpers.optimizers import resumed

WIDER = [case for case in VARIANTS if case not in TIED_WITHOUT_A_GAIN]
POST_NORM = [case for case in VARIANTS if "post-norm" in case or "350m" in case]
UNEQUAL = [case for case in VARIANTS if case.startswith("t5")]
DEEPER = [case for case in VARIANTS if case not in POST_NORM + UNEQUAL]
EXACT = 1e-12  # of the largest logit, a few hundred roundings of float64


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", WIDER)
@pytest.mark.parametrize(("factor", "how"), [(2, "diagonal"), pytest.param(3, "tile", marks=pytest.mark.slow)])
def test_they_grow_in_width_with_their_moments(tmp_path: Path, case: str, factor: int, how: str) -> None:
    check_width(tmp_path, case, factor, how)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", WIDER)
def test_they_grow_separated(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2)
    check_function(small, tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", WIDER)
def test_under_mup_their_losses_are_the_small_runs(tmp_path: Path, case: str) -> None:
    source = saved(tmp_path / "small.ckpt", perturbed(case), adamw)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule="mup"))
    runs = [
        trained(model, resumed(model, tree["optimizer_states"][0], adamw), batches(15, seed=3))
        for model, tree in (loaded(source), loaded(tmp_path / "grown.ckpt"))
    ]
    assert max(abs(one - other) for one, other in zip(*runs, strict=True)) <= 1e-9


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", VARIANTS)
def test_their_feed_forward_units_grow_to_any_size(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=27, noise=0)
    check_function(small, tmp_path / "grown.ckpt")
    check_moments(tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("case", TIED_WITHOUT_A_GAIN)
def test_a_tied_head_behind_no_gain_is_refused(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match="no gain that could make up for the copies"):
        ckptgrow.width(source, tmp_path / "grown.ckpt")
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", DEEPER)
@pytest.mark.parametrize("place", ["alternate", "append"])
def test_new_layers_are_identities(tmp_path: Path, case: str, place: str) -> None:
    check_depth(tmp_path, case, place, "zero-output")


@pytest.mark.parametrize("case", POST_NORM)
def test_blocks_with_a_norm_behind_them_are_copied_or_refused(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    for new in ("zero-output", "zero-norm"):
        with pytest.raises(RequestError, match=r'normalises after each block; new="copy"|norms have no gain'):
            ckptgrow.depth(source, tmp_path / "grown.ckpt", new=new)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="copy")
    assert loaded(tmp_path / "grown.ckpt")[0].config.num_hidden_layers == 4


@pytest.mark.parametrize("case", UNEQUAL)
def test_stacks_of_different_depths_are_not_deepened(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match="encoder and decoder have different numbers of layers"):
        ckptgrow.depth(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("case", VARIANTS)
def test_they_are_inspected_and_converted_without_a_word(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    small.save_pretrained(tmp_path / "small")
    found = ckptgrow.inspect(tmp_path / "small")
    assert not found.problems and not found.unclaimed
    assert found.num_parameters == sum(parameter.numel() for parameter in small.parameters())
    ckptgrow.convert(tmp_path / "small", tmp_path / "small.ckpt", "lightning")
    assert difference(small, loaded(tmp_path / "small.ckpt")[0])[0] == 0


@pytest.mark.parametrize("case", ["t5", *UNEQUAL])
def test_a_t5_that_leaves_its_decoders_depth_out_has_the_encoders(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    small.save_pretrained(tmp_path / "small")
    file = tmp_path / "small" / "config.json"
    config = json.loads(file.read_text())
    if case == "t5":
        del config["num_decoder_layers"]
    file.write_text(json.dumps({**config, **({"num_decoder_layers": None} if case == "t5" else {})}))
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    assert difference(small, reloaded(small, tmp_path / "grown"))[0] <= EXACT
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed


FLAGS = ("tie_word_embeddings", "layer_norm_elementwise_affine", "do_layer_norm_before", "_remove_final_layer_norm")


@pytest.mark.parametrize("model_type", [one for one in FAMILIES if one not in UNWIDENED])
def test_whatever_a_tied_head_reads_is_written_or_refused(model_type: str) -> None:
    """The check in the code and the refusals that the table lists for the user agree, whatever the flags."""
    family = FAMILIES[model_type]
    defaults = AutoConfig.for_model(model_type).to_dict()
    for values in product([False, True], repeat=len(FLAGS)):
        config = {**defaults, **dict(zip(FLAGS, values, strict=True))}
        narrow = {"word_embed_proj_dim": 8} if model_type == "opt" else {}
        for fields in (config, {**config, **narrow}):
            mute = replace(family, refusals=())
            listed = any(one.operator == "width" and _holds(one.when, fields) for one in family.refusals)
            try:
                shrunken_spaces(Architecture(mute, fields, model_type))
            except RequestError:
                assert listed
            else:
                assert not listed or model_type == "t5"  # refused for what transformers does with its head


def _holds(condition: str | None, config: dict[str, object]) -> bool:
    """What a condition says, by Python's own grammar."""
    if condition is None:
        return True
    words = [word if word in ("and", "not", "==", "!=") else f"config.get({word!r})" for word in condition.split()]
    return bool(eval(" ".join(words), {"config": config}))


def test_models_of_the_variants_are_what_they_are_called() -> None:
    assert not set(VARIANTS) & set(CASES)
    assert perturbed("opt-350m").model.decoder.project_in is not None
    assert perturbed("opt post-norm untied").model.decoder.final_layer_norm is None
    assert len(perturbed("t5 of unequal stacks").decoder.block) == 3
    assert isinstance(perturbed("opt without gains").model.decoder.final_layer_norm, torch.nn.LayerNorm)


def test_units_that_no_layer_has_are_refused(tmp_path: Path) -> None:
    """Where every layer keeps a dense block, experts' units are a size without tensors."""
    model_type, fields = CASES["qwen3_moe"]
    torch.manual_seed(0)
    small = built(AutoConfig.for_model(model_type, **{**COMMON, **fields, "mlp_only_layers": [0, 1]}))
    source = saved(tmp_path / "small.ckpt", small, adamw)
    with pytest.raises(RequestError, match="no tensor of this model has a size that was asked for"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=40)
    assert not (tmp_path / "grown.ckpt").exists()
