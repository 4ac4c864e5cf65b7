"""Trainers' own files: understood by their names, grown, written back to the bit, judged by the trainers' logits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.dialects import known_dialects
from ckptgrow.dialects.dialect import ConfigMap, Dialect, Row
from ckptgrow.errors import CheckpointError, ClaimError, ConfigError, RequestError
from ckptgrow.formats.known_formats import read_checkpoint, write_checkpoint
from ckptgrow.progress import silent
from ckptgrow.state import fitting_dialects, translation
from ckptgrow.state.opening import open_state
from ckptgrow.state.translation import in_transformers_terms
from ckptgrow.storage.tensors import whole
from ckptgrow.storage.tree import with_node
from tests.helpers.distributed import tensors_of
from tests.helpers.lightning_files import assert_same
from tests.helpers.trainer_files import (
    DISTRIBUTED,
    OLMO_CORE,
    SAMPLES,
    TORCHTUNE,
    TRAINED,
    config_beside,
    relative_difference,
    trainers_logits,
    transformers_logits,
)

FLOAT32 = 4e-6  # of the largest logit: two implementations round differently


@pytest.mark.parametrize("name", SAMPLES)
def test_transformers_computes_what_the_trainer_computed(name: str) -> None:
    tokens, expected = trainers_logits(SAMPLES[name])
    assert relative_difference(transformers_logits(SAMPLES[name], tokens), expected) < FLOAT32


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_read_is_written_back_to_the_bit(tmp_path: Path, name: str) -> None:
    source = read_checkpoint(SAMPLES[name])
    there, how = in_transformers_terms(source, config_beside(SAMPLES[name]))
    assert how is not None and how.dialect.trainer in ("nanoGPT", "litgpt", "torchtitan", "OLMo-core", "torchtune")
    target = tmp_path / SAMPLES[name].name
    write_checkpoint(how.undone(there), target, silent, force=False)
    if name in DISTRIBUTED:
        folder = "model_and_optim" if name in OLMO_CORE else ""
        assert_same(tensors_of(SAMPLES[name] / folder), tensors_of(target / folder))
    if name in OLMO_CORE:
        assert read_json(SAMPLES[name] / "config.json") == read_json(target / "config.json")
        trained = [torch.load(one / "train" / "rank0.pt", weights_only=False) for one in (SAMPLES[name], target)]
        assert_same(*trained)
    if name in DISTRIBUTED:
        return
    pairs = [(SAMPLES[name], target)] if target.is_file() else files_in(SAMPLES[name], target)
    for one, other in pairs:
        if one.suffix == ".safetensors":
            assert_same(load_file(one), load_file(other))
        elif one.suffix in (".pt", ".pth", ".bin"):
            assert_same(torch.load(one, weights_only=True), torch.load(other, weights_only=True))
        elif name in TORCHTUNE:  # transformers' own config, in which defaults are said
            assert read_yaml(one).items() <= read_yaml(other).items()
        else:
            assert read_yaml(one) == read_yaml(other)


def files_in(one: Path, other: Path) -> list[tuple[Path, Path]]:
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    return [(path, other / path.name) for path in one.iterdir()]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())


HAS_OWN_CONFIG = [
    name
    for name in SAMPLES
    if config_beside(SAMPLES[name]) is None and name not in TORCHTUNE and name != "litgpt-falcon"  # derived key heads
]


@pytest.mark.parametrize("name", HAS_OWN_CONFIG)
def test_a_trainers_config_says_all_without_transformers_which_takes_a_second_to_import(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, _ = in_transformers_terms(read_checkpoint(SAMPLES[name]))
    assert there.config is not None

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(AutoConfig, "for_model", asked)
    again, _ = in_transformers_terms(read_checkpoint(SAMPLES[name]))
    assert again.config == there.config


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_a_trainers_state_grows_and_computes_the_same(tmp_path: Path, name: str, operator: str) -> None:
    target = tmp_path / SAMPLES[name].name
    config = config_beside(SAMPLES[name])
    getattr(ckptgrow, operator)(SAMPLES[name], target, factor=2, request=ckptgrow.StateRequest(config=config))
    report = ckptgrow.verify(SAMPLES[name], target, config=config)
    assert report.passed and report.moments is not None
    tokens, expected = trainers_logits(SAMPLES[name])
    assert relative_difference(transformers_logits(target, tokens), expected) < FLOAT32
    assert isinstance(translation_of(target), translation.Translation)


@pytest.mark.parametrize(("name", "is_told"), [("nanogpt", True), ("torchtitan", False)])
def test_a_trainer_that_makes_its_groups_itself_is_told_of_with_mup(tmp_path: Path, name: str, is_told: bool) -> None:
    source = SAMPLES[name]
    request = ckptgrow.StateRequest(config=config_beside(source), lr_rule="mup", reset=("schedule",))
    result = ckptgrow.width(source, tmp_path / source.name, request=request)
    assert any("makes its optimizer's groups itself" in str(note) for note in result.notes) == is_told


@pytest.mark.parametrize("name", ["nanogpt", "litgpt-llama"])
def test_groups_that_no_trainer_makes_are_read_again_by_the_names_in_them(tmp_path: Path, name: str) -> None:
    """Once under mup, and once more from what that wrote, as it is and under other names."""
    source = SAMPLES[name]
    once, twice = (tmp_path / f"{name}{source.suffix}" for name in ("once", "twice"))
    request = ckptgrow.StateRequest(config=config_beside(source), lr_rule="mup")
    ckptgrow.width(source, once, request=request)
    assert ckptgrow.verify(source, once).passed
    ckptgrow.depth(once, twice)
    assert ckptgrow.verify(once, twice).passed
    ckptgrow.convert(once, tmp_path / "plain.ckpt", "lightning")
    written, again = (rates_by_name(one) for one in (once, tmp_path / "plain.ckpt"))
    assert len(set(written.values())) > 1
    assert written == {name: again[name] for name in written}


def rates_by_name(path: Path) -> dict[str, float]:
    """The learning rate of every parameter of the optimizer."""
    (optimizer,) = open_state(path).optimizers
    return {re.sub(r"^(model\.)+", "", name): one.options["lr"] for one in optimizer.groups for name in one.names}


def translation_of(path: Path) -> Any:
    return in_transformers_terms(read_checkpoint(path))[1]


def test_nanogpt_resumes_from_the_grown_file_with_its_own_arguments(tmp_path: Path) -> None:
    """Its train.py builds the model from `model_args`, and groups of AdamW for matrices and for vectors."""
    ckptgrow.width(SAMPLES["nanogpt"], tmp_path / "ckpt.pt", factor=2)
    old, new = (torch.load(path, weights_only=True) for path in (SAMPLES["nanogpt"], tmp_path / "ckpt.pt"))
    assert new["model_args"] == {**old["model_args"], "n_embd": 32, "n_head": 4}
    assert new["config"]["n_embd"] == 32 and new["iter_num"] == old["iter_num"]
    assert new["model"].keys() == old["model"].keys()
    shapes = [tuple(tensor.shape) for name, tensor in new["model"].items() if name != "lm_head.weight"]
    ordered = [shape for shape in shapes if len(shape) > 1] + [shape for shape in shapes if len(shape) == 1]
    assert [tuple(record["exp_avg"].shape) for record in new["optimizer"]["state"].values()] == ordered
    assert [len(group["params"]) for group in new["optimizer"]["param_groups"]] == [10, 5]


def test_olmo_core_finds_the_grown_sizes_in_its_config_and_the_step_in_its_own_file(tmp_path: Path) -> None:
    source = SAMPLES["olmo-core-olmo2"]
    ckptgrow.width(source, tmp_path / "a", factor=2, request=ckptgrow.StateRequest(step=7))
    ckptgrow.depth(tmp_path / "a", tmp_path / "b", factor=2)
    assert ckptgrow.verify(source, tmp_path / "b").passed
    expected = read_json(source / "config.json")
    expected["model"] |= {"d_model": 32, "n_layers": 4}
    expected["model"]["block"]["sequence_mixer"] |= {"n_heads": 8, "n_kv_heads": 4}
    expected["model"]["block"]["feed_forward"]["hidden_size"] *= 2
    found = read_json(tmp_path / "b" / "config.json")
    norms = [found["model"]["block"]["layer_norm"], found["model"]["lm_head"]["layer_norm"]]
    norms.append(found["model"]["block"]["sequence_mixer"]["qk_norm"])
    assert len({norm.pop("eps") for norm in norms}) == 1
    for norm in (expected["model"]["block"], expected["model"]["lm_head"]):
        del norm["layer_norm"]["eps"]
    del expected["model"]["block"]["sequence_mixer"]["qk_norm"]["eps"]
    assert found == expected
    trained = torch.load(tmp_path / "b" / "train" / "rank0.pt", weights_only=False)
    assert trained["global_step"] == 7 and trained["global_train_tokens_seen"] == 80


def test_an_older_olmo_core_calls_its_mixer_attention(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES["olmo-core-qwen3"], tmp_path / "a")
    config = read_json(tmp_path / "a" / "config.json")
    mixer = config["model"]["block"].pop("sequence_mixer")
    del mixer["type"]
    config["model"]["block"]["attention"] = mixer
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    ckptgrow.width(tmp_path / "a", tmp_path / "b", factor=2)
    assert read_json(tmp_path / "b" / "config.json")["model"]["block"]["attention"]["n_heads"] == 8
    assert translation_of(tmp_path / "b").dialect.name == "olmo-core-qwen3-old"


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("lm_head", "layer_norm", "eps"), 1e-3, "block.layer_norm.eps 1e-05 and lm_head.layer_norm.eps 0.001"),
        (("block", "sequence_mixer", "sliding_window"), {"pattern": [4]}, "sliding_window"),
    ],
)
def test_a_config_that_the_map_is_not_right_for_is_refused_by_name(
    tmp_path: Path, keys: tuple[str, ...], value: Any, reason: str
) -> None:
    shutil.copytree(SAMPLES["olmo-core-llama"], tmp_path / "a")
    config = with_node(read_json(tmp_path / "a" / "config.json"), ("model", *keys), value)
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=reason):
        ckptgrow.width(tmp_path / "a", tmp_path / "b", request=ckptgrow.StateRequest(dialect="olmo-core-llama"))


def test_a_compiled_model_keeps_its_prefix(tmp_path: Path) -> None:
    state = torch.load(SAMPLES["nanogpt"], weights_only=True)
    state["model"] = {f"_orig_mod.{name}": tensor for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "a.pt")
    ckptgrow.depth(tmp_path / "a.pt", tmp_path / "b.pt", factor=2)
    grown = torch.load(tmp_path / "b.pt", weights_only=True)
    assert all(name.startswith("_orig_mod.transformer.") for name in list(grown["model"])[:-1])
    assert grown["model_args"]["n_layer"] == 4


@pytest.mark.parametrize("name", ["nanogpt-bias", "litgpt-llama"])
def test_a_trainers_file_becomes_a_directory_of_transformers(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    ckptgrow.convert(SAMPLES[name], tmp_path / "hf", "huggingface")
    tokens, expected = trainers_logits(SAMPLES[name])
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert relative_difference(model.eval()(tokens).logits, expected) < FLOAT32


def changed(monkeypatch: pytest.MonkeyPatch, name: str, dialect: Dialect) -> None:
    monkeypatch.setattr(fitting_dialects, "DIALECTS", {**known_dialects.DIALECTS, name: dialect})


def config_of(dialect: Dialect) -> ConfigMap:
    assert dialect.config is not None
    return dialect.config


def test_the_trainers_logits_see_a_wrong_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    right = known_dialects.DIALECTS["nanogpt"]
    constants = {**config_of(right).constants, "activation_function": "gelu_new"}
    changed(monkeypatch, "nanogpt", replace(right, config=replace(config_of(right), constants=constants)))
    tokens, expected = trainers_logits(SAMPLES["nanogpt"])
    assert relative_difference(transformers_logits(SAMPLES["nanogpt"], tokens), expected) > 10 * FLOAT32


def test_the_trainers_logits_see_a_permutation_that_is_not_the_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    right = known_dialects.DIALECTS["litgpt-llama"]
    rows = tuple(
        Row(row.theirs, *(f"rotary heads: {row.parts[0].name}", *(part.name for part in row.parts[1:])), how="join")
        if row.how == ("join",)
        else row
        for row in right.rows
    )
    changed(monkeypatch, "litgpt-llama", replace(right, rows=rows))
    tokens, expected = trainers_logits(SAMPLES["litgpt-llama"])
    assert relative_difference(transformers_logits(SAMPLES["litgpt-llama"], tokens), expected) > 1000 * FLOAT32


def test_two_dialects_that_fit_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = replace(known_dialects.DIALECTS["nanogpt"], name="twin")
    changed(monkeypatch, "twin", twin)
    with pytest.raises(CheckpointError, match="nanogpt, twin each fit it"):
        in_transformers_terms(read_checkpoint(SAMPLES["nanogpt"]))


def test_an_unknown_file_says_which_trainers_were_tried_and_why_not(tmp_path: Path) -> None:
    state = torch.load(SAMPLES["nanogpt"], weights_only=True)
    state["model"] = {name.replace(".h.", ".stages."): tensor for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises((ClaimError, ConfigError), match=r"nanogpt \(it has no transformer.stages.0.attn") as caught:
        ckptgrow.width(tmp_path / "a.pt", tmp_path / "b.pt")
    assert re.search(r"litgpt-… \(\d+\)[^(]*\(it has no ", str(caught.value)) and "\n" not in str(caught.value)


def test_where_the_names_are_a_trainers_only_what_else_does_not_fit_it_is_told(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES["litgpt-llama"], tmp_path / "a")
    config = yaml.safe_load((tmp_path / "a" / "model_config.yaml").read_text())
    (tmp_path / "a" / "model_config.yaml").write_text(yaml.safe_dump({**config, "rope_condense_ratio": 4}))
    with pytest.raises((ClaimError, ConfigError)) as caught:
        ckptgrow.width(tmp_path / "a", tmp_path / "b")
    said = str(caught.value)
    assert (
        "its names are those of litgpt-llama, litgpt-mistral, litgpt-phi3 (its config says rope_condense_ratio 4); "
        in said
    )
    assert "nanogpt" in said and "it has no" not in said and len(said) < 700 + len(str(tmp_path))


def test_scaled_rotary_positions_that_are_said_by_half_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES["litgpt-llama3"], tmp_path / "a")
    config = yaml.safe_load((tmp_path / "a" / "model_config.yaml").read_text())
    (tmp_path / "a" / "model_config.yaml").write_text(yaml.safe_dump({**config, "rope_adjustments": {"factor": 2.0}}))
    with pytest.raises(CheckpointError, match="says rope_adjustments of factor, expected factor, high_freq_factor"):
        in_transformers_terms(read_checkpoint(tmp_path / "a"), None, "litgpt-llama")


def test_layers_with_windows_are_told_in_the_trainers_words(tmp_path: Path) -> None:
    ckptgrow.depth(SAMPLES["litgpt-gemma3"], tmp_path / "a", factor=2)
    config = yaml.safe_load((tmp_path / "a" / "model_config.yaml").read_text())
    assert config["sliding_window_indices"] == config["rope_indices"] == [1, 1, 0, 0]
    assert config["n_layer"] == 4


def test_a_growth_that_the_trainers_config_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot say ffn 128"):
        ckptgrow.width(SAMPLES["nanogpt"], tmp_path / "b.pt", factor=None, ffn=128)
    assert not (tmp_path / "b.pt").exists()


def test_inspect_names_the_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(SAMPLES["litgpt-llama"])]) == 0
    assert "trainer" in (shown := capsys.readouterr().out) and "litgpt" in shown
    assert "unclaimed" in shown and "none" in shown


def test_a_dialect_that_does_not_fit_says_why(tmp_path: Path) -> None:
    shutil.copy(SAMPLES["nanogpt"], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="does not fit the dialect"):
        ckptgrow.width(tmp_path / "a.pt", tmp_path / "b.pt", request=ckptgrow.StateRequest(dialect="litgpt-llama"))
    with pytest.raises(RequestError, match="expected one of"):
        ckptgrow.width(tmp_path / "a.pt", tmp_path / "b.pt", request=ckptgrow.StateRequest(dialect="nothing"))


def test_the_trainers_logits_see_a_missing_rotary_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    right = known_dialects.DIALECTS["torchtitan-llama3"]
    rows = tuple(
        Row(row.theirs, row.parts[0].name) if row.parts[0].steps and len(row.parts) == 1 else row for row in right.rows
    )
    changed(monkeypatch, "torchtitan-llama3", replace(right, rows=rows))
    tokens, expected = trainers_logits(SAMPLES["torchtitan"])
    assert relative_difference(transformers_logits(SAMPLES["torchtitan"], tokens), expected) > 1000 * FLOAT32


@pytest.mark.parametrize(("name", "head"), [("torchtitan", 4), ("torchtitan-qwen3", 8)])
def test_torchtitans_fused_moments_go_by_key_and_value_head(name: str, head: int) -> None:
    """Its wqkv is (kv heads, queries of a group, then key and value, head size): taken apart by hand here."""
    there, _ = in_transformers_terms(read_checkpoint(SAMPLES[name]), config_beside(SAMPLES[name]))
    stored = tensors_of(SAMPLES[name])
    fused = next(one for key, one in stored.items() if "layers.1" in key and key.endswith("wqkv.weight.exp_avg')"))
    query, key, value = fused.view(2, 4, head, 16).split([2, 1, 1], dim=1)
    parts = {"q": query.reshape(4, head, 16), "k": key.reshape(2, head, 16), "v": value.reshape(2, head, 16)}
    names = there.optimizers[0].groups[0].names or ()
    for letter, part in parts.items():
        is_paired = name == "torchtitan" and letter != "v"
        halves = torch.cat([part[:, 0::2], part[:, 1::2]], dim=1) if is_paired else part
        record = there.optimizers[0].records[names.index(f"model.layers.1.self_attn.{letter}_proj.weight")]
        assert torch.equal(whole(record["exp_avg"]), halves.reshape(-1, 16))


@pytest.mark.parametrize("name", ["nanogpt", "litgpt-llama", "litgpt-gemma"])
def test_a_dialect_that_says_the_whole_config_needs_nothing_of_transformers(name: str) -> None:
    """Importing transformers takes a second, in which 41M parameters grow."""
    script = (
        "import sys, pathlib; from ckptgrow.state.opening import open_state; "
        f"open_state(pathlib.Path({str(SAMPLES[name])!r})); sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_torchtune_has_its_own_optimizer_beside_transformers_weights(tmp_path: Path) -> None:
    """Numbered in the order of its own module, gate, down and up, with queries and keys in pairs."""
    ckptgrow.depth(SAMPLES["torchtune-llama3_hf"], tmp_path / "a", factor=2)
    old, new = (torch.load(one / "recipe_state.pt") for one in (SAMPLES["torchtune-llama3_hf"], tmp_path / "a"))
    own = torch.load(SAMPLES["torchtune-llama3"] / "model-00001-of-00001.bin")
    shapes = [tuple(tensor.shape) for tensor in own.values()]
    deeper = [*shapes[:-2], *shapes[1:-2], *shapes[-2:]]  # all layers alike
    assert [tuple(record["exp_avg"].shape) for record in new["optimizer"]["state"].values()] == deeper
    assert new["steps_run"] == old["steps_run"] == 5 and new["seed"] == old["seed"]
    places = [0, *range(1, 10), *range(1, 10), *range(10, 19), *range(10, 19), 19, 20]  # each old layer twice
    for number, place in enumerate(places):
        one, other = new["optimizer"]["state"][number]["exp_avg"], old["optimizer"]["state"][place]["exp_avg"]
        assert torch.equal(one, other) or not bool(one.any())
    directly, indirectly = (
        in_transformers_terms(read_checkpoint(SAMPLES[name]))[0].optimizers[0]
        for name in ("torchtune-llama3", "torchtune-llama3_hf")
    )
    for raw in (directly, indirectly):
        assert raw.groups[0].names is not None
    assert dict(zip(directly.groups[0].names or (), range(21), strict=True)) == dict(
        zip(indirectly.groups[0].names or (), range(21), strict=True)
    )


def test_the_head_of_torchtune_may_be_its_embedding(tmp_path: Path) -> None:
    ckptgrow.width(SAMPLES["torchtune-qwen2"], tmp_path / "a", factor=2)
    assert translation_of(tmp_path / "a").dialect.name == "torchtune-qwen2-tied"
    assert "output.weight" not in torch.load(tmp_path / "a" / "model-00001-of-00001.bin")
