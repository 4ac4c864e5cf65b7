"""A config that ties the head, a file that holds another one: transformers loads two tensors, and so two grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

import ckptgrow
from ckptgrow.errors import ClaimError
from ckptgrow.families.registry import FAMILIES
from tests.helpers.families import (
    CASES,
    FIRST,
    LAYERS_OF,
    POST_NORM,
    UNWIDENED,
    batches,
    built,
    difference,
    perturbed,
    reloaded,
    still,
    trained,
)
from tests.helpers.lightning_files import save_lightning

EXACT = 1e-12  # of the largest logit, a few hundred roundings of float64
HEADED = [case for case in FIRST if FAMILIES[CASES[case][0]].tie is not None]
UNTIED = {"tie_word_embeddings": False}
BIAS = {"bert": "cls.predictions.decoder.bias", "roberta": "lm_head.decoder.bias"}


def untied(case: str) -> PreTrainedModel:
    """A model whose head is its own: but T5's class, which ties always, it says so in its config."""
    tied = perturbed(case)
    if case == "t5":
        return tied
    model = built(AutoConfig.for_model(**{**tied.config.to_dict(), **UNTIED}))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.4))
    return model


def directory(path: Path, case: str, *, optimizer: bool = False) -> Path:
    """A directory whose config says that its head is tied, and whose file holds another one."""
    untied(case).save_pretrained(path)
    tie, file = FAMILIES[CASES[case][0]].tie, path / "model.safetensors"
    assert tie is not None
    tensors = load_file(file)
    head = "embed_out.weight" if case == "gpt_neox" else tie.head  # as transformers writes it
    tensors[head] = tensors[tie.embedding] + 0.2 * torch.randn(tensors[tie.embedding].shape, dtype=torch.float64)
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    if optimizer:
        model = reloaded(untied(case), path)
        real = still(model.parameters())
        trained(model, real, batches(3))
        torch.save(real.state_dict(), path / "optimizer.pt")
        (path / "trainer_state.json").write_text(json.dumps({"global_step": 3, "epoch": 1.0}))
    return path


def check_grown(tmp_path: Path, case: str, **sizes: Any) -> None:
    source = directory(tmp_path / "small", case, optimizer=True)
    small = reloaded(untied(case), source)
    if sizes:
        ckptgrow.width(source, tmp_path / "grown", **sizes)
    else:
        new = "copy" if case in POST_NORM else "zero-output"
        ckptgrow.depth(source, tmp_path / "grown", new=new, layers=LAYERS_OF.get(case))
    grown = reloaded(small, tmp_path / "grown")
    if sizes or case not in POST_NORM:
        assert difference(small, grown)[0] <= EXACT
    tie = FAMILIES[CASES[case][0]].tie
    assert tie is not None and not torch.equal(grown.get_parameter(tie.head), grown.get_parameter(tie.embedding))
    assert json.loads((tmp_path / "grown" / "config.json").read_text())["tie_word_embeddings"] is False
    if case not in POST_NORM or sizes:
        report = ckptgrow.verify(source, tmp_path / "grown")
        assert report.passed, report.sentences
    if sizes.get("noise") == 0:
        check_moments(grown, tmp_path / "grown")


def check_moments(grown: PreTrainedModel, path: Path) -> None:
    real = still(grown.parameters())
    trained(grown, real, batches(3))
    stored = torch.load(path / "optimizer.pt", weights_only=True)["state"]
    for number, parameter in enumerate(grown.parameters()):
        for key in ("exp_avg", "exp_avg_sq") if parameter in real.state else ():
            torch.testing.assert_close(stored[number][key], real.state[parameter][key], rtol=1e-9, atol=1e-13)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", [case for case in HEADED if case not in UNWIDENED])
def test_a_head_of_its_own_grows_in_width(tmp_path: Path, case: str) -> None:
    check_grown(tmp_path, case, factor=2, noise=0)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", HEADED)
def test_a_head_of_its_own_stays_in_depth(tmp_path: Path, case: str) -> None:
    check_grown(tmp_path, case)


@pytest.mark.parametrize("case", ["gpt2", "gemma", "t5"])
def test_a_head_of_its_own_grows_by_fresh_coordinates(tmp_path: Path, case: str) -> None:
    check_grown(tmp_path, case, hidden=24, **({} if case != "gpt2" else {"heads": 6}), how="pad")


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", HEADED)
def test_conversion_keeps_it(tmp_path: Path, case: str) -> None:
    source = directory(tmp_path / "small", case)
    ckptgrow.convert(source, tmp_path / "small.ckpt", "lightning")
    ckptgrow.convert(tmp_path / "small.ckpt", tmp_path / "back", "huggingface")
    expected, found = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    tie = FAMILIES[CASES[case][0]].tie
    assert tie is not None
    heads = ("embed_out.weight", tie.head)
    ours, theirs = (next(one for name, one in file.items() if name in heads) for file in (found, expected))
    assert torch.equal(ours, theirs)
    before, after = (reloaded(untied(case), path).state_dict() for path in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    inspected = ckptgrow.inspect(source)
    assert inspected.config is not None and inspected.config["tie_word_embeddings"] is False
    assert not inspected.problems


@pytest.mark.parametrize("case", ["gpt2", "llama tied", "t5", "bert"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_equal_copy_of_the_embedding_stays_tied(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    small = perturbed(case)
    tensors = {f"model.{name}": tensor.to(dtype).clone() for name, tensor in small.state_dict().items()}
    ckptgrow.width(save_lightning(tmp_path / "a.ckpt", small, state_dict=tensors), tmp_path / "grown.ckpt", noise=0)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tie = FAMILIES[CASES[case][0]].tie
    assert tie is not None
    head, embedding = (tree["state_dict"][f"model.{name}"] for name in (tie.head, tie.embedding))
    assert torch.equal(head, embedding) and tree["hyper_parameters"]["config"]["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("case", "name"),
    [("bert", BIAS["bert"]), ("roberta", BIAS["roberta"]), ("t5", "encoder.embed_tokens.weight")],
)
def test_other_tensors_that_should_be_one_are_refused_by_name_where_they_differ(
    tmp_path: Path, case: str, name: str
) -> None:
    small = perturbed(case)
    tensors = {f"model.{key}": tensor.clone() for key, tensor in small.state_dict().items()}
    tensors[f"model.{name}"] += 0.5
    source = save_lightning(tmp_path / "small.ckpt", small, state_dict=tensors)
    with pytest.raises(ClaimError, match=rf"model\.{name} differs from .* drop"):
        ckptgrow.width(source, tmp_path / "grown.ckpt")
    assert ckptgrow.inspect(source).problems and not (tmp_path / "grown.ckpt").exists()


def test_an_average_whose_head_alone_differs_is_refused(tmp_path: Path) -> None:
    small = perturbed("gpt2")
    tensors = {f"{p}.{n}": tensor.clone() for p in ("model", "average") for n, tensor in small.state_dict().items()}
    tensors["average.lm_head.weight"] += 0.5
    source = save_lightning(tmp_path / "small.ckpt", small, state_dict=tensors)
    with pytest.raises(ClaimError, match=r"average\.lm_head\.weight differs"):
        ckptgrow.width(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("case", POST_NORM)
@pytest.mark.parametrize("named", [False, True])
def test_an_untied_masked_head_has_a_bias_of_its_own(tmp_path: Path, case: str, *, named: bool) -> None:
    small = untied(case)
    real = still(small.named_parameters() if named else small.parameters())
    trained(small, real, batches(3))
    source = save_lightning(tmp_path / "small.ckpt", small, [real])
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    grown = built(AutoConfig.for_model(**tree["hyper_parameters"]["config"]))
    grown.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tree["state_dict"].items()})
    assert difference(small, grown)[0] <= EXACT
    fresh = still(grown.parameters())
    trained(grown, fresh, batches(3))
    stored = tree["optimizer_states"][0]["state"]
    for number, (name, parameter) in enumerate(grown.named_parameters()):
        assert (number in stored) == (parameter in fresh.state), name  # the bias that nothing reads has no moments
        for key in ("exp_avg", "exp_avg_sq") if number in stored else ():
            torch.testing.assert_close(stored[number][key], fresh.state[parameter][key], rtol=1e-9, atol=1e-13)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


def test_one_parameter_under_two_names_is_refused(tmp_path: Path) -> None:
    source = directory(tmp_path / "small", "gpt_neox")
    file = source / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["embed_out.weight"] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(ClaimError, match=r"embed_out\.weight and lm_head\.weight name one parameter"):
        ckptgrow.width(source, tmp_path / "grown")


@pytest.mark.parametrize("separate", ["split", "noise"])
def test_t5s_directory_without_a_head_grows_and_verifies_whatever_its_config_says(
    tmp_path: Path, separate: Any
) -> None:
    """Transformers ties the head that the directory lacks."""
    model = perturbed("t5")
    model.save_pretrained(tmp_path / "small")
    path = tmp_path / "small" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": False}))
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", ffn=30, separate=separate)
    assert ckptgrow.verify(tmp_path / "small", tmp_path / "grown").passed
