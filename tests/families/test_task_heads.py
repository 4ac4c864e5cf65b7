"""Heads of other tasks grow with every family's backbone: transformers' own classes, autograd and a real AdamW."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

import ckptgrow
from ckptgrow.errors import CheckpointError
from ckptgrow.families.registry import FAMILIES
from tests.helpers.families import (
    ALIBI,
    CASES,
    COMMON,
    LAYERS_OF,
    OWN_NAMES,
    POST_NORM,
    VOCABULARY,
    InFloat64,
    batches,
    perturbed,
    widened,
)
from tests.helpers.lightning_files import save_lightning

MAPPINGS = {
    "ForSequenceClassification": "SEQUENCE_CLASSIFICATION",
    "ForTokenClassification": "TOKEN_CLASSIFICATION",
    "ForQuestionAnswering": "QUESTION_ANSWERING",
    "ForMultipleChoice": "MULTIPLE_CHOICE",
    "ForNextSentencePrediction": "NEXT_SENTENCE_PREDICTION",
    "ForPreTraining": "PRETRAINING",
}
CLASS_OF = {  # by the case and how the class's name ends
    (case, ending): name
    for case, (model_type, _) in CASES.items()
    for ending, kind in MAPPINGS.items()
    if (name := getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").get(model_type, "")).endswith(ending)
}
EVERY = [pytest.param(*one, id="-".join(one)) for one in CLASS_OF]
WIDER = [pytest.param(*one, id="-".join(one)) for one in CLASS_OF if one[0] not in ALIBI]
DEEPER = [pytest.param(*one, id="-".join(one)) for one in CLASS_OF if one[0] not in POST_NORM]
SEED, EXACT = 3, 1e-12


def model_of(case: str, ending: str) -> PreTrainedModel:
    """In float64, every parameter far from its initialisation, with three labels."""
    model_type, fields = CASES[case]
    common = {} if model_type in OWN_NAMES else {"attention_dropout": 0.0, **COMMON}
    labels = {} if ending == "ForQuestionAnswering" else {"id2label": {0: "a", 1: "b", 2: "c"}}
    fields = {"vocab_size": VOCABULARY, **common, **fields, **labels, "classifier_dropout": 0.0}
    torch.manual_seed(0)
    model = widened(getattr(transformers, CLASS_OF[case, ending])(AutoConfig.for_model(model_type, **fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() > 1 else 0.3))
    return model


def outputs(model: PreTrainedModel, tokens: torch.Tensor) -> list[torch.Tensor]:
    """All that a head gives for sequences one by one, whose last token is the end's."""
    ends = model.config.eos_token_id
    tokens = tokens if ends is None or ends >= VOCABULARY else torch.cat([tokens, torch.full((2, 1), ends)], 1)
    tokens = tokens[:, None] if type(model).__name__.endswith("ForMultipleChoice") else tokens
    found: list[torch.Tensor] = []
    for one in tokens.split(1):
        given = {name: value for name, value in model(input_ids=one).items() if name.endswith("logits")}
        found += [given[name] for name in sorted(given)]
    return found


def saved(path: Path, model: PreTrainedModel) -> Path:
    """With the moments of an AdamW that took five steps and moved nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    stepped(model, optimizer)
    return save_lightning(path, model, [optimizer])


def stepped(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    for tokens in batches(5):
        optimizer.zero_grad(set_to_none=True)
        with InFloat64():
            sum((one - 1).square().mean() for one in outputs(model, tokens)).backward()
        optimizer.step()


def grown_model(like: PreTrainedModel, path: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The same class with the weights of a `.ckpt`, through transformers and torch alone, and the whole file."""
    tree = torch.load(path, weights_only=True)
    config = AutoConfig.for_model(**tree["hyper_parameters"]["config"])
    model = widened(type(like)(config))
    model.load_state_dict({name.removeprefix("model."): one for name, one in tree["state_dict"].items()})
    return model, tree


def check_function(small: PreTrainedModel, grown: PreTrainedModel) -> None:
    for tokens in batches(2, seed=SEED):
        with torch.no_grad(), InFloat64():
            pairs = zip(outputs(small, tokens), outputs(grown, tokens), strict=True)
            for one, other in pairs:
                assert float((one - other).abs().max()) <= EXACT * max(1.0, float(one.abs().max()))


def check_moments(grown: PreTrainedModel, tree: dict[str, Any], fresh: Sequence[int] = ()) -> None:
    """Every stored moment is that of an AdamW which took the same steps in the grown model."""
    real = torch.optim.AdamW(grown.parameters(), lr=0.0)
    stepped(grown, real)
    stored = tree["optimizer_states"][0]["state"]
    largest = max(float(one["exp_avg"].abs().max()) for one in real.state.values())
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        number = re.search(r"\.(\d+)\.", name)
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)) if parameter in real.state else ():
            found, expected = stored[index][key], real.state[parameter][key]
            if number is not None and int(number[1]) in fresh:
                assert not found.any()
                continue
            scale = max(float(expected.abs().max()), (1e-6 * largest) ** power)
            assert float((found - expected).abs().max()) <= 1e-9 * scale, (name, key)


def check(tmp_path: Path, model: PreTrainedModel, grow: Callable[[Path, Path], Any], fresh: Sequence[int] = ()) -> None:
    source, target = saved(tmp_path / "small.ckpt", model), tmp_path / "grown.ckpt"
    grow(source, target)
    grown, tree = grown_model(model, target)
    check_function(model, grown)
    check_moments(grown, tree, fresh)
    report = ckptgrow.verify(source, target)
    assert report.passed, (report.structure, report.function, report.moments)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_tables_have_every_class_that_transformers_has(model_type: str) -> None:
    found = {ending for case, ending in CLASS_OF if CASES[case][0] == model_type}
    said = {ending for task in FAMILIES[model_type].tasks for ending in task.classes}
    assert found == said - {"WithValueHead"}


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("case", "ending"), WIDER)
def test_heads_of_tasks_grow_in_width_with_their_moments(tmp_path: Path, case: str, ending: str) -> None:
    def grow(source: Path, target: Path) -> None:
        ckptgrow.width(source, target, factor=2, noise=0)

    check(tmp_path, model_of(case, ending), grow)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("case", "ending"), DEEPER)
def test_heads_of_tasks_stay_as_they_are_in_a_deeper_model(tmp_path: Path, case: str, ending: str) -> None:
    if case in LAYERS_OF:
        check(tmp_path, model_of(case, ending), partial(ckptgrow.depth, layers=LAYERS_OF[case]), fresh=(2, 3))
    else:
        check(tmp_path, model_of(case, ending), ckptgrow.depth, fresh=(1, 3))


SAMPLE = [
    ("llama tied", "ForSequenceClassification"),
    ("gemma2", "ForTokenClassification"),
    ("qwen3", "ForQuestionAnswering"),
    ("mixtral", "ForSequenceClassification"),
    ("bert", "ForPreTraining"),
    ("roberta", "ForSequenceClassification"),
    ("t5", "ForTokenClassification"),
    ("gpt2", "ForQuestionAnswering"),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("case", "ending"), SAMPLE)
def test_directories_of_task_models_load_with_nothing_missing(tmp_path: Path, case: str, ending: str) -> None:
    model = model_of(case, ending)
    model.save_pretrained(tmp_path / "small")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", factor=2)
    kind, options = type(model), {"dtype": torch.float64, "output_loading_info": True}
    grown, report = kind.from_pretrained(tmp_path / "grown", **options)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    check_function(model, widened(grown))
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("case", "ending"), SAMPLE)
def test_task_models_grow_in_memory_as_through_files(tmp_path: Path, case: str, ending: str) -> None:
    model = model_of(case, ending)
    source = saved(tmp_path / "small.ckpt", model)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2)
    grown = ckptgrow.grow(model, width=2).model
    assert type(grown) is type(model)
    written = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    assert {f"model.{name}" for name in grown.state_dict()} == set(written)
    assert all(torch.equal(one, written[f"model.{name}"]) for name, one in grown.state_dict().items())


@pytest.mark.parametrize("case", ["llama", "llama tied", "gpt2"])
def test_value_heads_beside_the_head_of_tokens_grow(tmp_path: Path, case: str) -> None:
    model = perturbed(case)
    model.v_head = torch.nn.Module()
    model.v_head.summary = torch.nn.Linear(16, 1, dtype=torch.float64)
    source = save_lightning(tmp_path / "small.ckpt", model)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    grown = widened(type(model)(AutoConfig.for_model(**tree["hyper_parameters"]["config"])))
    grown.v_head = torch.nn.Module()
    grown.v_head.summary = torch.nn.Linear(32, 1, dtype=torch.float64)
    grown.load_state_dict({name.removeprefix("model."): one for name, one in tree["state_dict"].items()})
    for tokens in batches(2, seed=SEED):
        with torch.no_grad(), InFloat64():
            found = [model_and(one, tokens) for one in (model, grown)]
        assert all(float((one - other).abs().max()) <= EXACT * 10 for one, other in zip(*found, strict=True))
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed
    tree["state_dict"]["model.v_head.summary.weight"] *= 1.001
    torch.save(tree, tmp_path / "wrong.ckpt")
    assert not ckptgrow.verify(source, tmp_path / "wrong.ckpt").passed


def model_and(model: PreTrainedModel, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, and the values of a value head."""
    found = model(input_ids=tokens, output_hidden_states=True)
    return found.logits, model.v_head.summary(found.hidden_states[-1])


def test_a_head_that_was_changed_is_named(tmp_path: Path) -> None:
    source = saved(tmp_path / "small.ckpt", model_of("llama", "ForSequenceClassification"))
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, noise=0)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tree["state_dict"]["model.score.weight"][1, 3] *= 2
    torch.save(tree, tmp_path / "wrong.ckpt")
    report = ckptgrow.verify(source, tmp_path / "wrong.ckpt")
    assert not report.passed and report.structure.worst_parameter == "model.score.weight"


def test_adapters_are_refused_with_the_way_out(tmp_path: Path) -> None:
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds an adapter \(adapter_model.safetensors\) alone.*merge"):
        ckptgrow.width(directory, tmp_path / "grown", factor=2)
    model = model_of("llama", "ForSequenceClassification")
    name = "model.layers.0.self_attn.q_proj"
    model.get_submodule(name).register_module("lora_A", torch.nn.Linear(16, 2, bias=False))
    source = save_lightning(tmp_path / "small.ckpt", model)
    with pytest.raises(CheckpointError, match=r"an adapter's model.model.layers.0.self_attn.q_proj.lora_A.weight"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2)
    assert not (tmp_path / "grown").exists() and not (tmp_path / "grown.ckpt").exists()
