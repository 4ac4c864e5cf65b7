"""Every family × every operator against transformers' own forward pass, autograd and a real AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.errors import ConfigError, RequestError
from ckptgrow.growth.request import StateRequest
from tests.helpers.families import (
    ALIBI,
    CASES,
    DEEPER,
    DENSE_FIRST,
    FIRST,
    FIRST_APART,
    NO_ZERO_NORM,
    PERIODIC,
    POST_NORM,
    SINES,
    UNDECAYED,
    UNFED,
    WIDER,
    adamw,
    batches,
    difference,
    generated,
    loaded,
    perturbed,
    reloaded,
    saved,
    still_run,
    trained,
    undecayed,
)
from tests.helpers.family_checks import (
    EXACT,
    FLOAT32,
    ROUTERS_IN_FLOAT32,
    check_depth,
    check_function,
    check_moments,
    check_verified,
    check_width,
    slow_but,
)
from tests.helpers.optimizers import resumed

NEW_FFN = 27  # from 20: seven units have two copies
# the size of a head is hidden / heads, so more heads would be smaller ones
HEADS_OF_HIDDEN = (
    "gpt2",
    "gpt_neox",
    "opt",
    "phi",
    "stablelm",
    "bert",
    "roberta",
    "vit",
    "smollm3",
    "helium",
    "gptj",
    "gpt_bigcode",
    "modernbert",
    "modernbert-decoder",
    "cohere2",
    "persimmon",
    "distilbert",
    "falcon",
    "falcon of one key head",
    "biogpt",
    "gpt_neo",
    "jamba",
    "xlm-roberta",
    "camembert",
    "bart",
    "mbart",
    "pegasus",
    "xglm",
)
NORMED_OVER_ALL = ("olmo2", "olmo3", "olmoe", "minimax_m2", "flex_olmo")
ONE_KEY_HEAD_FUSED = ("gpt_bigcode", "falcon of one key head")
DEEP_SAMPLE = ("llama", "gemma2", "olmo2", "t5", "mpt")
SAMPLE = ("gemma2",)  # on which every operator is tried in the default run


HEADED = (
    "llama biased",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "olmo",
    "phi3",
    "starcoder2",
    "granite",
    "mixtral",
    "qwen3_moe",
    "ministral",
    "ministral3",
    "glm",
    "glm4",
    "arcee",
    "seed_oss",
    "ernie4_5",
    "hunyuan_v1_dense",
    "exaone4",
    "qwen2_moe",
    "granitemoe",
    "gpt_oss",
    "apertus",
    "glm4_moe",
    "dots1",
    "ernie4_5_moe",
    "deepseek_v3",
    "nanochat",
    "eurobert",
    "qwen3_next",
    "qwen3_5_text",
    "lfm2",
    "falcon_h1",
    "bamba",
    "granitemoehybrid",
    "cohere",
    "cohere normed",
    "cwm",
    "nemotron",
    "jais2",
    "vaultgemma",
    "granitemoeshared",
    "hyperclovax",
    "internlm3",
    "iquestcoder",
    "deepseek_v2",
    "glm4_moe_lite",
    "youtu",
    "phimoe",
    "solar_open",
    "exaone_moe",
    "lfm2_moe",
    "qwen3_5_moe_text",
    "hunyuan_v1_moe",
    "minicpm3",
    "nemotron_h",
    "cohere2_moe",
    "granite_swa",
    "granitemoe_swa",
)
UNEVENLY_HEADED = (
    "mistral",
    "qwen3",
    "gemma",
    "qwen3_moe",
    "ministral",
    "glm",
    "seed_oss",
    "ernie4_5",
    "deepseek_v3",
    "qwen3_5_text",
    "nemotron_h",
)  # whose configs allow 6 heads of 4 beside 16 coordinates


@pytest.mark.sampled(10)
@pytest.mark.parametrize("case", slow_but(WIDER, FIRST))
def test_diagonal_width_keeps_the_function_and_grows_the_moments_of_a_real_adamw(tmp_path: Path, case: str) -> None:
    check_width(tmp_path, case, 2, "diagonal")


@pytest.mark.parametrize("case", slow_but(WIDER, SAMPLE))
def test_tiled_width_keeps_the_function_and_grows_the_moments_of_a_real_adamw(tmp_path: Path, case: str) -> None:
    check_width(tmp_path, case, 3, "tile")


@pytest.mark.parametrize("case", slow_but(WIDER, SAMPLE))
def test_noise_keeps_the_function(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, noise=1.0)
    check_function(small, tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("case", ONE_KEY_HEAD_FUSED)
def test_one_rate_for_queries_that_are_copied_and_the_key_head_that_is_not_is_refused(
    tmp_path: Path, case: str
) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match=r"(c_attn|query_key_value)\.weight grows by uneven copies, so no single lr"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, noise=0, request=StateRequest(lr_rule="mup"))
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", slow_but([one for one in WIDER if one not in ONE_KEY_HEAD_FUSED], SAMPLE))
def test_under_mup_the_grown_run_has_the_small_runs_losses(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    is_decayed = small.config.model_type not in UNDECAYED
    source = saved(tmp_path / "small.ckpt", small, adamw if is_decayed else undecayed)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, noise=0, request=StateRequest(lr_rule="mup"))
    samples = batches(20, seed=3)
    runs = [
        trained(model, resumed(model, tree["optimizer_states"][0], adamw), samples)
        for model, tree in (loaded(source), loaded(tmp_path / "grown.ckpt"))
    ]
    assert len(set(runs[0])) == 20
    assert max(abs(one - other) for one, other in zip(*runs, strict=True)) <= 1e-9


@pytest.mark.parametrize("case", slow_but([one for one in (*WIDER, *SINES) if one not in UNFED], SAMPLE))
def test_feed_forward_units_grow_unevenly_with_their_moments(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=NEW_FFN, noise=0)
    check_function(small, tmp_path / "grown.ckpt")
    check_moments(tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("case", slow_but(DEEPER, DEEP_SAMPLE))
def test_new_layers_in_between_are_identities_and_old_moments_stay(tmp_path: Path, case: str) -> None:
    check_depth(tmp_path, case, "alternate", "zero-output")


@pytest.mark.parametrize("case", slow_but([one for one in DEEPER if one not in DENSE_FIRST], SAMPLE))
def test_new_layers_at_the_end_are_identities_and_old_moments_stay(tmp_path: Path, case: str) -> None:
    check_depth(tmp_path, case, "append", "zero-output")


@pytest.mark.parametrize("case", FIRST_APART)
@pytest.mark.parametrize("place", ["alternate", "append"])
def test_layers_out_of_one_that_is_unlike_the_others_are_refused(tmp_path: Path, case: str, place: Any) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(ConfigError, match=r"layer 0 of modernbert.* has other parameters than layer"):
        ckptgrow.depth(source, tmp_path / "grown.ckpt", place=place)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", PERIODIC)
def test_kinds_that_come_round_are_refused_where_no_period_says_them(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(ConfigError, match=r"which cannot say that layers 2, 3 of 4 have it; choose other"):
        ckptgrow.depth(source, tmp_path / "grown.ckpt", place="alternate")
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", DENSE_FIRST)
def test_dense_layers_behind_others_are_refused_where_a_config_counts_the_first_ones(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(ConfigError, match=r"by \w+, which cannot say that layers 0, 2 of 4"):
        ckptgrow.depth(source, tmp_path / "grown.ckpt", place="append")
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", slow_but([one for one in DEEPER if CASES[one][0] not in NO_ZERO_NORM], SAMPLE))
def test_new_layers_with_zero_norms_are_identities_too(tmp_path: Path, case: str) -> None:
    check_depth(tmp_path, case, "alternate", "zero-norm")


@pytest.mark.parametrize("case", NO_ZERO_NORM)
def test_zero_norms_that_leave_no_identity_are_refused(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match='use new="zero-output"'):
        ckptgrow.depth(source, tmp_path / "grown.ckpt", new="zero-norm")


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("llama", {"heads": 8}),
        ("llama", {"heads": 8, "kv_heads": 4}),
        ("llama long heads", {"heads": 8, "kv_heads": 2}),
        ("llama with six heads", {"heads": 12, "kv_heads": 3}),
        ("llama with six heads", {"heads": 12, "kv_heads": 4}),
        ("llama biased", {"heads": 16, "kv_heads": 8}),
        pytest.param("t5", {"heads": 6}, marks=pytest.mark.slow),
        pytest.param("mt5", {"heads": 7}, marks=pytest.mark.slow),
        *(pytest.param(case, {"heads": 8}, marks=pytest.mark.slow) for case in HEADED),
        *(pytest.param(case, {"heads": 6}, marks=pytest.mark.slow) for case in UNEVENLY_HEADED),
    ],
)
def test_heads_grow_so_that_each_reads_its_own_key_head(tmp_path: Path, case: str, sizes: dict[str, int]) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, **sizes)
    check_function(small, tmp_path / "grown.ckpt")
    check_moments(tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize(
    ("case", "sizes", "reason"),
    [
        *((case, {"heads": 8}, "no field can say it") for case in HEADS_OF_HIDDEN),
        ("llama", {"heads": 6}, "transformers refuses the grown config"),
        ("llama", {"heads": 5}, "expected a multiple of 2 heads, at least 4"),
        ("llama", {"kv_heads": 3}, "expected a multiple of 2 that divides 4"),
        ("llama", {"heads": 8, "kv_heads": 8}, "grow the key heads first"),
        *(
            (case, {"heads": 6}, "a norm runs over all heads")
            for case in ("olmo2", "olmo3", "olmoe", "minimax_m2", "flex_olmo")
        ),
        ("olmo tied", {"factor": 2}, "final norm has no gain"),
        ("codegen", {"heads": 16}, "no field can say it"),
        *((case, {"ffn": 47}, "no such size of its own|no tensor of this model") for case in UNFED),
        ("mamba2", {"heads": 8}, "heads follow the hidden size"),
    ],
)
def test_sizes_that_no_copies_reach_exactly_are_refused(
    tmp_path: Path, case: str, sizes: dict[str, int], reason: str
) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises((ConfigError, RequestError), match=reason):
        ckptgrow.width(source, tmp_path / "grown.ckpt", **sizes)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", slow_but(list(CASES), SAMPLE))
def test_a_grown_model_survives_transformers_own_saving_and_says_the_same(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    if case in WIDER:
        ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, noise=1.0)
    else:
        ckptgrow.depth(source, tmp_path / "grown.ckpt")
    grown, _ = loaded(tmp_path / "grown.ckpt")
    grown.save_pretrained(tmp_path / "saved")
    again = reloaded(grown, tmp_path / "saved")
    assert difference(small, again)[0] <= (FLOAT32 if small.config.model_type in ROUTERS_IN_FLOAT32 else EXACT)
    if small.can_generate():
        assert torch.equal(generated(small), generated(again))


@pytest.mark.parametrize("case", SINES)
@pytest.mark.parametrize("sizes", [{"factor": 2}, {"hidden": 24, "how": "pad"}])
def test_a_hidden_size_that_sines_follow_is_refused_to_grow(tmp_path: Path, case: str, sizes: dict[str, Any]) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match="its positions are sines"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", **sizes)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", ALIBI)
@pytest.mark.parametrize("sizes", [{"factor": 2}, {"heads": 8}, {"ffn": 80}, {"hidden": 24, "how": "pad"}])
def test_what_alibi_makes_inexact_is_refused_with_the_reason(tmp_path: Path, case: str, sizes: dict[str, Any]) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match=r"4 × |ALiBi's slopes depend on the number of heads|ALiBi and their scale"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", **sizes)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("case", POST_NORM)
def test_depth_of_post_norm_families_is_refused_but_for_copies(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    for new in ("zero-output", "zero-norm"):
        with pytest.raises(RequestError, match="normalises after each block"):
            ckptgrow.depth(source, tmp_path / "grown.ckpt", new=new)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="copy")
    assert loaded(tmp_path / "grown.ckpt")[0].config.num_hidden_layers == 4
