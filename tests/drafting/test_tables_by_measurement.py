"""Every table that exists against what is measured on its tiny models, and errors planted in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ckptgrow.drafting.disagreements import disagreements, unclaimed_units
from ckptgrow.drafting.observed_model import Observed
from ckptgrow.drafting.table_check import measured_against
from ckptgrow.drafting.tabled_model import Tabled
from ckptgrow.families.family import Family, Size
from ckptgrow.families.registry import FAMILIES
from ckptgrow.state.architecture import Architecture
from tests.helpers.families import CASES, VARIANTS, perturbed

CASES_OF_ALL = {**CASES, **VARIANTS}
SLOW = [case for case in CASES if case.startswith(("mamba2", "falcon_h1", "bamba", "granitemoehybrid"))]
# its table says of norms behind the blocks what it says of those before them: both grow alike, and depth is refused
POST_NORM = ("opt-350m", "opt post-norm untied", "opt tied post-norm")
# its values lie in one tensor with the queries of the one group, of which no mark can tell them
ONE_GROUP = ("falcon of one norm",)
# what could have more units and has not by any table: numbers that stand for themselves, or the parts of units
KEPT = {
    "head",
    "experts",
    "shared",
    "latent",
    "query_latent",
    "key_head",
    "value_head",
    "state",
    "state_head",
    "rank",
    "types",
    "decoder_head",
}


def observed(case: str) -> Observed:
    model = perturbed(case)
    return Observed(
        model=model,
        vocabulary=model.config.to_dict().get("vocab_size", 2),
        image=(3, 8) if case == "vit" else None,
    )


def table_of(case: str) -> Family:
    return FAMILIES[CASES_OF_ALL[case][0]]


@pytest.mark.sampled(30)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES_OF_ALL]
)
def test_a_table_says_what_is_measured(case: str) -> None:
    one = tabled(case, table_of(case))
    found = list(disagreements(one))
    known = "no matrices alone read it" if case in POST_NORM else "has no !" if case in ONE_GROUP else None
    assert all(known in line for line in found) if known else not found
    assert set(unclaimed_units(one)) <= KEPT


L = "model.layers.{layer}."
PLANTED: Mapping[str, tuple[str, Mapping[str, str], str]] = {  # the case, rows with other layouts, what is told
    "heads inside of their coordinates": (
        "llama",
        {L + "self_attn.o_proj.weight": "residual <- (head heads)"},
        "heads",
    ),
    "read and written exchanged": ("llama", {L + "mlp.down_proj.weight": "residual -> ffn"}, "measured: it is read"),
    "an axis that is left out": ("llama biased", {L + "mlp.up_proj.bias": "20"}, "ffn: the logits see"),
    "the residual stream left out": ("llama", {"lm_head.weight": "vocab <- 16"}, "residual: the logits see"),
    "another space of the same size": ("gpt2", {"transformer.h.{layer}.mlp.c_fc.bias": "other"}, "ffn: the logits"),
    "what a norm writes for what it makes": (
        "llama",
        {L + "self_attn.q_proj.weight": "(heads head) <- final"},
        "reads",
    ),
    "the final norm for another": ("llama", {"model.norm.weight": "gain normed"}, "lm_head.weight"),
    "the stream for what a norm writes": ("gemma2", {L + "mlp.up_proj.weight": "ffn! <- residual"}, "it reads what"),
    "a gain without its 1": ("llama", {"model.norm.weight": "1+gain final"}, "measured: gain"),
    "a gain with it": ("gemma2", {"model.norm.weight": "gain final"}, "measured: 1+gain"),
    "a bias for a gain": ("llama", {L + "input_layernorm.weight": "normed"}, "measured: gain"),
    "a gain for a bias": ("gpt2", {"transformer.ln_f.bias": "gain final"}, "measured: bias"),
    "no mark on values": ("llama", {L + "self_attn.v_proj.weight": "(kv_heads head) <- normed"}, "has no !"),
    "a mark on keys": (
        "llama",
        {
            L + "self_attn.v_proj.weight": "(kv_heads head) <- normed",
            L + "self_attn.k_proj.weight": "(kv_heads! head) <- normed",
        },
        "reads it still",
    ),
    "halves in turn": ("phi3", {L + "mlp.gate_up_proj.weight": "(ffn 2!) <- normed"}, "ffn: the logits see"),
    "thirds before heads": (
        "gpt_neox",
        {"gpt_neox.layers.{layer}.attention.query_key_value.weight": "(3! heads head) <- normed"},
        "heads: the logits see",
    ),
    "what writes the stream not said": (
        "llama",
        {L + "mlp.down_proj.weight": "branch <- ffn"},
        "seen by the logits though all that writes 'residual'",
    ),
}


def planted(family: Family, layouts: Mapping[str, str]) -> Family:
    assert set(layouts) <= {one.name for one in family.parameters}
    rows = tuple(replace(one, layout=layouts.get(one.name, one.layout)) for one in family.parameters)
    others = {"branch": Size(same="residual"), "other": family.sizes["ffn"]}  # as large, and other spaces
    return replace(family, parameters=rows, sizes={**family.sizes, **others})


def tabled(case: str, family: Family) -> Tabled:
    one = observed(case)
    return Tabled(one, Architecture(family, one.model.config.to_dict(), case))


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_measured(error: str) -> None:
    case, layouts, told = PLANTED[error]
    found = list(disagreements(tabled(case, planted(table_of(case), layouts))))
    assert any(told in line for line in found), found


def test_units_that_a_table_never_grows_are_found() -> None:
    family = replace(table_of("llama"), units=("heads", "kv_heads"))
    assert list(unclaimed_units(tabled("llama", family))) == ["ffn"]


def test_experts_that_a_router_is_said_not_to_follow_are_found() -> None:
    family = planted(table_of("mixtral"), {L + "mlp.gate.weight": "3 <- normed"})
    assert "experts" in set(unclaimed_units(tabled("mixtral", table_of("mixtral"))))
    assert "experts" not in set(unclaimed_units(tabled("mixtral", family)))


def test_a_row_that_is_left_out_is_told() -> None:
    family = table_of("llama biased")
    lacking = replace(family, parameters=family.parameters[:-1])
    assert "claims no tensor named lm_head.weight" in measured_against(observed("llama biased"), lacking)[0]


def test_a_size_that_is_another_fields_is_told() -> None:
    family = table_of("llama long heads")
    wrong = replace(family, sizes={**family.sizes, "head": replace(family.sizes["head"], config=None)})
    assert "q_proj.weight has shape" in measured_against(observed("llama long heads"), wrong)[0]
