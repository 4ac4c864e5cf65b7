"""Depth where a config states the kinds of its layers by a rule, as on the hub, against transformers' own models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, PreTrainedModel

import ckptgrow
from ckptgrow.errors import ConfigError
from ckptgrow.families.registry import FAMILIES
from tests.helpers.families import (
    CASES,
    COMMON,
    EXPERTS,
    FIRST_APART,
    GROUPED,
    LENGTH,
    OWN_NAMES,
    built,
    difference,
    loaded,
    still_run,
)
from tests.helpers.gpt2 import logits, perturbed_gpt2, token_batches
from tests.helpers.lightning_files import load_model, save_lightning

EXACT = 1e-12  # of the largest logit, a few hundred roundings of float64
WINDOW = 4  # so that it shows in sequences of LENGTH
SHORT = {"sliding_window": WINDOW}
LISTS = ("layer_types", "no_rope_layers", "mlp_layer_types", "layer_rope_theta", "_sliding_window_pattern")
OWN_LISTS = ("attention_layers", "layers_block_type")  # that transformers never derives
UNDERIVED = ("lfm2_moe",)  # whose configs must say their layers' types
RULES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gemma2": ("gemma2", {**SHORT, "head_dim": 4, "query_pre_attn_scalar": 4}),
    "gemma3 of period 2": ("gemma3_text", {**SHORT, "head_dim": 4, "sliding_window_pattern": 2}),
    "gemma3 of period 3": ("gemma3_text", {**SHORT, "head_dim": 4, "sliding_window_pattern": 3}),
    "qwen2": ("qwen2", {**SHORT, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen2 without windows": ("qwen2", {**SHORT, "use_sliding_window": False, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**SHORT, "head_dim": 4, "use_sliding_window": True, "max_window_layers": 2}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "olmo3": ("olmo3", {**SHORT}),
    "ministral": ("ministral", {**SHORT, "head_dim": 4}),
    "exaone4": ("exaone4", {**SHORT, "sliding_window_pattern": 2}),
    "smollm3 with windows": ("smollm3", {**SHORT, "no_rope_layer_interval": 3, "use_sliding_window": True}),
    "qwen3_moe every second": ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 2}),
    "qwen3_moe by number": ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [1]}),
    "qwen3_moe both": ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 2, "mlp_only_layers": [1]}),
}
LAYER_MAPS = st.tuples(*[st.integers(1, 3)] * 3).filter(lambda times: sum(times) > 3)


def ruled(rule: str, num_layers: int = 3) -> tuple[dict[str, Any], PreTrainedModel]:
    """A config as on the hub, without lists, and a float64 model of it with every parameter perturbed."""
    model_type, fields = RULES[rule]
    config: dict[str, Any] = {**COMMON, **GROUPED, "num_hidden_layers": num_layers, **fields}
    torch.manual_seed(0)
    model = built(AutoConfig.for_model(model_type, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.4))
    return {**config, "model_type": model_type}, model


def saved(path: Path, model: PreTrainedModel, config: Mapping[str, Any]) -> Path:
    return save_lightning(path, model, hyper_parameters={"config": dict(config)})


def check_deeper(tmp_path: Path, rule: str, **request: Any) -> None:
    assert WINDOW < LENGTH
    config, small = ruled(rule)
    source = saved(tmp_path / "small.ckpt", small, config)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", **request)
    grown, _ = loaded(tmp_path / "grown.ckpt")
    assert grown.config.num_hidden_layers > 3
    assert difference(small, grown)[0] <= EXACT


@pytest.mark.sampled(10)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("place", ["alternate", "append"])
def test_old_layers_keep_the_kind_that_a_rule_gave_them(tmp_path: Path, rule: str, place: Any) -> None:
    check_deeper(tmp_path, rule, place=place)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("rule", RULES)
def test_they_keep_it_with_zero_norms_in_a_stack_three_times_as_deep(tmp_path: Path, rule: str) -> None:
    check_deeper(tmp_path, rule, factor=3, new="zero-norm")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rule=st.sampled_from(sorted(RULES)), times=LAYER_MAPS, rotated=st.booleans())
def test_they_keep_it_in_any_list_of_layers(
    tmp_path_factory: pytest.TempPathFactory, rule: str, times: Sequence[int], *, rotated: bool
) -> None:
    layers = [layer for layer in range(3) for _ in range(times[layer])]
    if rotated:  # every later mention at the end, turned round
        layers = [0, 1, 2, *reversed([layer for layer in range(3) for _ in range(times[layer] - 1)])]
    check_deeper(tmp_path_factory.mktemp("deeper"), rule, layers=layers)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("rule", RULES)
def test_a_directory_from_the_hub_deepens_and_verifies(tmp_path: Path, rule: str) -> None:
    config, small = ruled(rule)
    small.save_pretrained(tmp_path / "small")
    written = json.loads((tmp_path / "small" / "config.json").read_text())
    kept = {key: value for key, value in written.items() if key not in LISTS}
    (tmp_path / "small" / "config.json").write_text(json.dumps({**kept, **config}))
    ckptgrow.depth(tmp_path / "small", tmp_path / "grown")
    grown = type(small).from_pretrained(tmp_path / "grown", dtype=torch.float64)
    assert difference(small, built_like(grown))[0] <= EXACT
    report = ckptgrow.verify(tmp_path / "small", tmp_path / "grown")
    assert report.passed, report.sentences


def built_like(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that is float64 throughout."""
    again = built(model.config)
    again.load_state_dict(model.state_dict())
    return again


def kinds(model: PreTrainedModel) -> list[dict[str, Any]]:
    """For every layer the plain values that its modules hold, and its parameters' names; its own number excepted."""
    stack = max((one for one in model.modules() if isinstance(one, torch.nn.ModuleList)), key=len)
    return [
        {
            f"{name}.{key}": value
            for name, module in [("", layer), *layer.named_modules()]
            for key, value in {
                **vars(module),
                "names": sorted(name for name, _ in module.named_parameters(recurse=False)),
            }.items()
            if isinstance(value, bool | int | float | str | list | None) and key not in ("layer_idx", "layer_id")
        }
        for layer in stack
    ]


@pytest.mark.parametrize("case", [case for case in CASES if "dense layer" not in case])
def test_whatever_tells_layers_apart_in_transformers_is_known_to_the_table(case: str) -> None:
    """With the lists of the table set alike, no module of one layer differs from that of another."""
    model_type, fields = CASES[case]
    common = {} if model_type in OWN_NAMES else COMMON
    family = FAMILIES[model_type]
    own = [name for name in family.layer_lists if name in OWN_LISTS]
    counted = {family.num_layers: 6} | {alias: 6 for alias, name in family.aliases.items() if name == family.num_layers}
    counted = {} if family.num_layers in family.layer_lists else counted
    full = {**common, **fields, **counted, **{name: fields[name][:1] * 6 for name in own}}
    derived = AutoConfig.for_model(model_type, **{k: v for k, v in full.items() if k not in LISTS}).to_dict()
    derived |= {name: fields[name] for name in family.layer_lists if model_type in UNDERIVED}
    assert {key for key in (*LISTS[:-1], *own) if derived.get(key)} == set(family.layer_lists)
    alike = {name: [derived[name][0]] * 6 for name in family.layer_lists}
    everywhere = {family.sparse.first: 0} if family.sparse and family.sparse.first else {}
    everywhere |= {name: list(range(6)) for name in family.layer_numbers}
    everywhere |= {name: value for pair in family.periodic.values() for name, value in zip(pair, (1, 0), strict=True)}
    with torch.device("meta"):
        first, *others = kinds(built(AutoConfig.for_model(model_type, **{**full, **alike, **everywhere})))
    if model_type in ("t5", "mt5") or case in FIRST_APART:  # whose first block has more or less, and stays the first
        first, *others = others
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"layer_types": ["full_attention"] * 2}, r"layer_types` \(2\)"),
        ({"per_layer_config": {"0": {}}}, "per_layer_config"),
    ],
)
def test_kinds_that_cannot_move_are_refused(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    config, small = ruled("gemma2")
    source = saved(tmp_path / "small.ckpt", small, {**config, **fields})
    with pytest.raises(ConfigError, match=reason):
        ckptgrow.depth(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tables_know_the_other_names_of_their_fields(model_type: str) -> None:
    family = FAMILIES[model_type]
    fields = {family.num_layers, *family.stacks.values(), *(size.config for size in family.sizes.values())}
    aliases = type(AutoConfig.for_model(model_type)).attribute_map
    mapped = {alias: name for alias, name in aliases.items() if name in {*fields, *family.layer_lists}}
    renamed = {alias: name for alias, name in family.aliases.items() if alias not in mapped}  # as it is read
    assert {**mapped, **renamed} == family.aliases
    for alias, name in renamed.items():
        value = not getattr(AutoConfig.for_model(model_type), name) if name.startswith("tie") else 8
        assert getattr(AutoConfig.for_model(model_type, **{alias: value}), name) == value


def test_fields_under_two_names_stay_equal(tmp_path: Path) -> None:
    small = perturbed_gpt2()
    other_names = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = {key: value for key, value in small.config.to_dict().items() if key not in ("n_embd", "n_layer")}
    source = saved(tmp_path / "small.ckpt", small, {**config, **other_names})
    ckptgrow.width(source, tmp_path / "wide.ckpt")
    ckptgrow.depth(tmp_path / "wide.ckpt", tmp_path / "grown.ckpt")
    grown, _ = load_model(tmp_path / "grown.ckpt")
    assert (grown.config.n_embd, grown.config.n_layer, grown.config.n_head) == (24, 4, 6)
    expected, found = (logits(model, token_batches(1)[0]) for model in (small, grown))
    assert float((found - expected).abs().max()) <= EXACT * float(expected.abs().max())


@pytest.mark.parametrize(
    ("case", "field", "value", "told"),
    [
        ("minicpm3", "scale_depth", 1.4, "is 1.4, expected 1.9799"),
        ("nemotron_h", "hybrid_override_pattern", "E*", "expected none beside the list of layers"),
    ],
)
def test_what_follows_the_depth_is_said_anew_and_judged(
    tmp_path: Path, case: str, field: str, value: Any, told: str
) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.depth(source, tmp_path / "grown.ckpt")
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tree["hyper_parameters"]["config"][field] = value
    torch.save(tree, tmp_path / "grown.ckpt")
    sentences = ckptgrow.verify(source, tmp_path / "grown.ckpt").sentences
    assert any(f"config['{field}']" in one and told in one for one in sentences), sentences


def test_periods_are_the_shortest_that_say_the_layers(tmp_path: Path) -> None:
    source = still_run(tmp_path / "small.ckpt", "jamba of one expert")
    ckptgrow.depth(source, tmp_path / "grown.ckpt", layers=[0, 0, 1, 0, 0, 1])
    config = torch.load(tmp_path / "grown.ckpt", weights_only=True)["hyper_parameters"]["config"]
    assert (config["attn_layer_period"], config["attn_layer_offset"]) == (3, 2)
    assert (config["expert_layer_period"], config["expert_layer_offset"]) == (2, 0)  # which nothing reads
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
