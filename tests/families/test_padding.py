"""Every family × any hidden size: new coordinates that copy nothing, against autograd and a real AdamW."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.choices import Fresh
from ckptgrow.errors import CkptgrowError, RequestError
from ckptgrow.growth.request import StateRequest
from tests.helpers.families import (
    CASES,
    WIDER,
    batches,
    difference,
    generated,
    loaded,
    perturbed,
    reloaded,
    saved,
    still,
    still_run,
    trained,
)
from tests.helpers.family_checks import EXACT, FLOAT32, LAYER_NORM, ROUTERS_IN_FLOAT32, slow_but

Tree = dict[str, Any]
FORCED = StateRequest(force=True)
REASONS = {
    "olmo": "no gain that could make up",
    "olmo2": "norms over all queries share the ε",
    "olmo3": "norms over all queries share the ε",
    "olmoe": "norms over all queries share the ε",
    "codegen": "new ones in each of its four parts",
    "nanochat": "no gain that could make up",
    "modernbert": "a norm stands behind the embedding",
    "modernbert-decoder": "a norm stands behind the embedding",
    "lfm2": "dead for ever",
    "mamba2": "follows the hidden size",
    "bamba": "follows the hidden size",
    "granitemoehybrid": "follows the hidden size",
    "lfm2_moe": "would be dead for ever",
    "distilbert": "a norm stands after each block",
    "biogpt": "no field for the norms' ε",
    "flex_olmo": "norms over all queries share the ε",
    "bert": "a norm stands after each block",
    "roberta": "a norm stands after each block",
    "xlm-roberta": "a norm stands after each block",
    "camembert": "a norm stands after each block",
    "jamba": "follows the hidden size",
    "bart": "a norm stands after each block",
    "mbart": "a norm stands behind the embedding",
    "pegasus": "no field for the norms' ε",
}
REASON_OF_CASE = {
    "cohere2_moe of sigmoids": "its norms are RMSNorms here",
    "falcon_h1 normed": "norm over its states' heads shares the ε",
    "falcon of one norm": "in one tensor with the queries of its group",
}
PADDED = [case for case in WIDER if CASES[case][0] not in REASONS and case not in REASON_OF_CASE]
WRITERS = (
    r"(wte|wpe|embed_positions|project_in|embed_in|word_embeddings|embed_tokens|c_proj|out_proj|fc_out|dense|dense_4h_to_h|o_proj|down_proj|fc2|patch_embeddings\.projection)"
    r"\.(weight|bias)$|experts\.down_proj$|cls_token$|position_embeddings$"
)
ROUGH = 0.2  # how far off their gradients are, of the largest entry


@pytest.mark.parametrize("case", slow_but(PADDED, ("llama", "gpt2")))
def test_any_hidden_size_keeps_the_function_and_the_moments_of_old_entries(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    hidden = small.config.hidden_size * 3 // 2
    ckptgrow.width(source, tmp_path / "grown.ckpt", hidden=hidden, how="pad")
    grown, tree = loaded(tmp_path / "grown.ckpt")
    assert grown.config.hidden_size == hidden
    exact, as_it_is = difference(small, grown)
    assert exact <= EXACT and as_it_is <= FLOAT32, (exact, as_it_is)

    real = still(grown.parameters())
    trained(grown, real, batches(5))
    stored = tree["optimizer_states"][0]["state"]
    floor = max(float(one["exp_avg"].abs().max()) for one in real.state.values()) * 1e-6
    num_copied = 0
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        if not parameter.requires_grad:
            continue
        copied = stored[index]["exp_avg_sq"] != 0
        num_copied += int(copied.sum())
        is_rough = small.config.model_type in LAYER_NORM and re.search(WRITERS, name)
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            found, expected = stored[index][key][copied], real.state[parameter][key][copied]
            # key biases have no gradient at all: rounding is compared with the others' size
            limit = (ROUGH * power if is_rough else 1e-9) * max(float(expected.abs().max()), floor**power)
            assert float((found - expected).abs().max()) <= limit, (name, key)
            assert not stored[index][key][~copied].any()
    gradients = still(small.parameters())
    trained(small, gradients, batches(5))
    assert num_copied == sum(int((one["exp_avg_sq"] != 0).sum()) for one in gradients.state.values())
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=ckptgrow.Settings(steps=2))
    assert report.passed, report.sentences
    assert report.trajectory is not None and not report.trajectory.judged


@pytest.mark.parametrize("case", slow_but(PADDED, ("llama",)))
def test_new_coordinates_learn_and_the_model_survives_transformers_own_saving(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    hidden = small.config.hidden_size * 3 // 2
    ckptgrow.width(source, tmp_path / "grown.ckpt", hidden=hidden, how="pad")
    grown, _ = loaded(tmp_path / "grown.ckpt")
    grown.save_pretrained(tmp_path / "saved")
    again = reloaded(grown, tmp_path / "saved")
    assert difference(small, again)[0] <= (FLOAT32 if small.config.model_type in ROUTERS_IN_FLOAT32 else EXACT)
    if small.can_generate():
        assert torch.equal(generated(small), generated(again))
    before = {name: parameter.detach().clone() for name, parameter in grown.named_parameters()}
    trained(grown, torch.optim.AdamW(grown.parameters(), lr=1e-3, weight_decay=0.0), batches(3))
    moved = {name: (parameter.detach() != before[name]) for name, parameter in grown.named_parameters()}
    matrices = [one for one in moved.values() if one.dim() == 2 and one.shape[1] == hidden]
    assert all(one[:, small.config.hidden_size :].any() for one in matrices)


@pytest.mark.parametrize("case", [case for case in WIDER if case not in PADDED])
def test_families_whose_config_forbids_it_say_why(tmp_path: Path, case: str) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match=REASON_OF_CASE.get(case) or REASONS[CASES[case][0]]):
        ckptgrow.width(source, tmp_path / "grown.ckpt", hidden=24, how="pad")
    assert not (tmp_path / "grown.ckpt").exists()


def test_second_moments_of_new_entries_may_be_the_mean_of_old_ones(tmp_path: Path) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.width(
        source, tmp_path / "grown.ckpt", hidden=24, ffn=30, how="pad", request=StateRequest(fresh_moments="mean")
    )
    grown, tree = loaded(tmp_path / "grown.ckpt")
    stored = tree["optimizer_states"][0]["state"]
    number = [name for name, _ in grown.named_parameters()].index("model.layers.0.mlp.up_proj.weight")
    second, first = stored[number]["exp_avg_sq"], stored[number]["exp_avg"]
    old = second[:20, :16]
    assert second.shape == (30, 24) and not first[20:].any() and not first[:, 16:].any()
    torch.testing.assert_close(second[:20, 16:], old.mean(1, keepdim=True).expand(-1, 8))
    torch.testing.assert_close(second[20:, :16], old.mean(0, keepdim=True).expand(10, -1))
    torch.testing.assert_close(second[20:, 16:], old.mean().expand(10, 8))
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
    second[25, 20] *= 100
    torch.save(tree, tmp_path / "tampered.ckpt")
    assert not ckptgrow.verify(source, tmp_path / "tampered.ckpt").passed


def entry_of(tree: Tree, name: str, key: str) -> torch.Tensor:
    names = [one for one in tree["state_dict"] if not one.endswith("lm_head.bias")]
    return tree["optimizer_states"][0]["state"][names.index(f"model.model.{name}")][key]


def a_gain(tree: Tree) -> str:
    tree["state_dict"]["model.model.norm.weight"][3] *= 1.001
    return "model.model.norm.weight"


def the_epsilon(tree: Tree) -> str:
    tree["hyper_parameters"]["config"]["rms_norm_eps"] *= 100
    return "config['rms_norm_eps']"


def an_old_entry(tree: Tree) -> str:
    tree["state_dict"]["model.model.layers.1.mlp.up_proj.weight"][4, 5] += 1e-3
    return "model.model.layers.1.mlp.up_proj.weight"


def a_new_row_that_is_not_zero(tree: Tree) -> str:
    tree["state_dict"]["model.model.embed_tokens.weight"][7, 20] = 0.1
    return "the function changed"


def a_new_moment(tree: Tree) -> str:
    entry_of(tree, "layers.1.mlp.up_proj.weight", "exp_avg_sq")[4, 20] = 1e-6
    return "exp_avg_sq of model.model.layers.1.mlp.up_proj.weight"


def an_old_moment(tree: Tree) -> str:
    entry_of(tree, "layers.1.mlp.up_proj.weight", "exp_avg")[4, 5] *= 1.01
    return "exp_avg of model.model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "tamper",
    [a_gain, the_epsilon, an_old_entry, a_new_row_that_is_not_zero, a_new_moment, an_old_moment],
    ids=lambda tamper: tamper.__name__,
)
def test_tampering_with_a_padded_model_is_caught_and_named(tmp_path: Path, tamper: Callable[[Tree], str]) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.width(source, tmp_path / "grown.ckpt", hidden=24, how="pad")
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    named = tamper(tree)
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(source, tmp_path / "tampered.ckpt")
    assert not report.passed
    assert any(named in sentence for sentence in report.sentences), report.sentences


@pytest.mark.parametrize(
    ("sizes", "request_", "reason"),
    [
        ({"hidden": 16, "how": "pad"}, StateRequest(), "has this size already"),
        ({"hidden": 12, "how": "pad"}, StateRequest(), "at least the old size, 16"),
        ({"hidden": 24}, StateRequest(), 'how="pad" with it'),
        ({"hidden": 24, "factor": 2, "how": "pad"}, StateRequest(), "exclude each other"),
        ({"hidden": 24, "how": "pad", "noise": 1.0}, StateRequest(), "no copies that it could tell apart"),
        ({"hidden": 24, "how": "pad"}, StateRequest(lr_rule="mup"), 'use lr_rule="keep"'),
        ({"heads": 5, "how": "pad"}, StateRequest(), "expected both in that proportion"),
        ({"factor": 2}, StateRequest(fresh_moments="mean"), 'give how="pad"'),
    ],
)
def test_contradictory_sizes_are_refused(
    tmp_path: Path, sizes: dict[str, Any], request_: StateRequest, reason: str
) -> None:
    source = still_run(tmp_path / "small.ckpt", "mistral")
    with pytest.raises(RequestError, match=reason):
        ckptgrow.width(source, tmp_path / "grown.ckpt", request=request_, **sizes)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.sampled(6)
@pytest.mark.parametrize("fresh", [None, "zero-copy", "zero-random"])
@pytest.mark.parametrize("case", WIDER)
def test_by_a_factor_every_size_grows_and_the_function_stays_or_a_reason_is_told(
    tmp_path: Path, case: str, fresh: Fresh | None
) -> None:
    source, grown_path = still_run(tmp_path / "small.ckpt", case), tmp_path / "grown.ckpt"
    try:
        done = ckptgrow.width(source, grown_path, factor=2, how="pad", fresh=fresh)
    except CkptgrowError as refusal:
        ways_out = ('use fresh="random-zero"', "leave fresh")
        assert "exactly" in refusal.message or (fresh and any(one in refusal.message for one in ways_out)), refusal
        assert not grown_path.exists()
        return
    small = perturbed(case)
    grown, _ = loaded(grown_path)
    assert grown.config.hidden_size == 2 * small.config.hidden_size
    assert all(done.new[one] == 2 * done.old[one] for one in ("heads", "ffn") if one in done.old)
    exact, as_it_is = difference(small, grown)
    assert exact <= EXACT and as_it_is <= FLOAT32, (exact, as_it_is)
    assert ckptgrow.verify(source, grown_path, settings=ckptgrow.Settings(level="stored")).passed


def test_a_factor_is_the_sizes_typed(tmp_path: Path) -> None:
    """Beside a factor, a size is what one space becomes instead; without either all is doubled."""
    source = still_run(tmp_path / "small.ckpt", "llama")
    old = ckptgrow.inspect(source).sizes
    typed = {"hidden": 2 * old["residual"], "heads": 2 * old["heads"], "kv_heads": 2 * old["kv_heads"]}
    for ffn, by_factor in ((2 * old["ffn"], {}), (2 * old["ffn"], {"factor": 2}), (70, {"factor": 2, "ffn": 70})):
        ckptgrow.width(source, tmp_path / "typed.ckpt", how="pad", ffn=ffn, **typed, request=FORCED)
        ckptgrow.width(source, tmp_path / "factor.ckpt", how="pad", **by_factor, request=FORCED)
        assert (tmp_path / "typed.ckpt").read_bytes() == (tmp_path / "factor.ckpt").read_bytes()


def test_heads_that_share_the_values_of_old_ones_are_not_silenced_by_values(tmp_path: Path) -> None:
    source = still_run(tmp_path / "small.ckpt", "gpt_bigcode")
    for fresh in ("zero-copy", "zero-random"):
        with pytest.raises(RequestError, match="leave fresh out, which reads"):
            ckptgrow.width(source, tmp_path / "grown.ckpt", heads=8, hidden=32, how="pad", fresh=fresh)


def test_t5_without_scaled_outputs_takes_no_other_hidden_size(tmp_path: Path) -> None:
    small = perturbed("t5")
    small.config.scale_decoder_outputs = False
    source = saved(tmp_path / "small.ckpt", small, still)
    with pytest.raises(RequestError, match="without scaled outputs"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", hidden=24, how="pad")


def test_new_units_leave_every_other_size(tmp_path: Path) -> None:
    """OPT's embeddings are narrower than its hidden size, and stay so."""
    source = saved(tmp_path / "small.ckpt", perturbed("opt projected"), still)
    ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=26, how="pad")
    grown, _ = loaded(tmp_path / "grown.ckpt")
    assert (grown.config.ffn_dim, grown.config.word_embed_proj_dim) == (26, 8)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


@pytest.mark.parametrize("case", ["exaone4", "llama"])
def test_drawn_entries_are_as_large_as_the_old_ones_beside_them(tmp_path: Path, case: str) -> None:
    """Behind a stream that is written √(d'/d) as large, old columns are smaller, and so are the new ones."""
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", hidden=64, how="pad")  # from 16: twice as large
    query = loaded(tmp_path / "grown.ckpt")[0].get_parameter("model.layers.0.self_attn.q_proj.weight").detach()
    old, drawn = (one.square().mean().sqrt() for one in (query[:16, :16], query[:16, 16:]))
    assert float(drawn) == pytest.approx(float(old), rel=0.15)  # of 768 draws
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
