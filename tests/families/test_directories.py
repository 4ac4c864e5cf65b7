"""Model directories as transformers writes them, whose names are not always the module's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel

import ckptgrow
from ckptgrow.errors import ClaimError
from ckptgrow.families.registry import FAMILIES
from ckptgrow.growth.request import StateRequest
from tests.helpers.families import FIRST, WIDER, batches, difference, perturbed, reloaded, still, trained

EXACT = 1e-12  # of the largest logit, a few hundred roundings of float64
EXPERTS = ("mixtral", "qwen3_moe", "qwen3_moe with a dense layer")
WIDTHS = ({"factor": 2, "noise": 0}, {"factor": 3, "how": "tile", "noise": 1.0}, {"ffn": 27, "noise": 0})


def names_in(directory: Path) -> set[str]:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return set(file.keys())


def trainer_directory(path: Path, model: PreTrainedModel) -> Path:
    """What a Trainer leaves after five steps, as far as growth is concerned."""
    optimizer = still(model.parameters())
    trained(model, optimizer, batches(5))
    model.save_pretrained(path)
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 5, "epoch": 1.0}))
    return path


def as_loaded(case: str, directory: Path) -> PreTrainedModel:
    """A case's model with the numbers that transformers can load: routers that a class makes in float32 have its."""
    model = perturbed(case)
    model.save_pretrained(directory)
    return reloaded(model, directory)


def check_moments(grown: PreTrainedModel, directory: Path) -> None:
    """By position, as torch's optimizers find their records."""
    real = still(grown.parameters())
    trained(grown, real, batches(5))
    stored = torch.load(directory / "optimizer.pt", weights_only=True)["state"]
    untrained = FAMILIES[grown.config.model_type].untrained  # which from_pretrained makes trainable
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        if re.sub(r"\.\d+\.", ".{layer}.", name, count=1) in untrained:
            continue
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(stored[index][key], real.state[parameter][key], rtol=1e-9, atol=1e-13)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", [case for case in FIRST if case in WIDER])
def test_a_directory_grows_into_one_that_transformers_would_have_written(tmp_path: Path, case: str) -> None:
    small = as_loaded(case, tmp_path / "loaded")
    source = trainer_directory(tmp_path / "small", small)
    ckptgrow.width(source, tmp_path / "grown", factor=2, noise=0)
    grown = reloaded(small, tmp_path / "grown")
    assert difference(small, grown)[0] <= EXACT
    check_moments(grown, tmp_path / "grown")
    assert names_in(tmp_path / "grown") == names_in(tmp_path / "small")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", EXPERTS)
@pytest.mark.parametrize("sizes", WIDTHS)
def test_experts_that_lie_one_by_one_in_the_file_grow_with_their_fused_moments(
    tmp_path: Path, case: str, sizes: dict[str, Any]
) -> None:
    small = perturbed(case)
    source = trainer_directory(tmp_path / "small", small)
    ckptgrow.width(source, tmp_path / "grown", **sizes)
    grown = reloaded(small, tmp_path / "grown")
    assert difference(small, grown)[0] <= EXACT
    report = ckptgrow.verify(source, tmp_path / "grown")
    assert report.passed, report.sentences
    if sizes["noise"] == 0:
        check_moments(grown, tmp_path / "grown")


@pytest.mark.parametrize("case", EXPERTS[:2])
def test_layers_of_single_experts_deepen(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    small.save_pretrained(tmp_path / "small")
    ckptgrow.depth(tmp_path / "small", tmp_path / "grown")
    grown = reloaded(small, tmp_path / "grown")
    assert difference(small, grown)[0] <= EXACT
    grown.save_pretrained(tmp_path / "again")
    assert names_in(tmp_path / "grown") == names_in(tmp_path / "again")


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    perturbed("mixtral").save_pretrained(tmp_path / "small")
    file = tmp_path / "small" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.block_sparse_moe.experts.0.w3.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ClaimError, match=r"model\.layers\.1\.block_sparse_moe\.experts\.0\.w1\.weight"):
        ckptgrow.width(tmp_path / "small", tmp_path / "grown")


def test_experts_fused_in_a_lightning_file_and_single_on_disk_are_one_model(tmp_path: Path) -> None:
    small = perturbed("qwen3_moe")
    source = trainer_directory(tmp_path / "small", small)
    ckptgrow.convert(source, tmp_path / "small.ckpt", "lightning")
    names = set(torch.load(tmp_path / "small.ckpt", weights_only=True)["state_dict"])
    assert names == {f"model.{name}" for name in small.state_dict()}
    quiet = StateRequest(lr_rule="mup")
    ckptgrow.width(source, tmp_path / "grown", noise=0, request=quiet)
    ckptgrow.width(tmp_path / "small.ckpt", tmp_path / "grown.ckpt", noise=0, request=quiet)
    ours = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    for name, tensor in reloaded(small, tmp_path / "grown").state_dict().items():
        assert torch.equal(tensor, ours[f"model.{name}"])


def test_inspection_counts_what_lies_in_the_file_and_understands_it(tmp_path: Path) -> None:
    small = perturbed("mixtral")
    source = trainer_directory(tmp_path / "small", small)
    found = ckptgrow.inspect(source)
    assert found.problems == [] and found.unclaimed == []
    assert found.num_tensors == len(names_in(source))
    assert found.num_parameters == sum(parameter.numel() for parameter in small.parameters())
    assert found.optimizer is not None
    assert found.optimizer["num_parameters_with_state"] == len(list(small.parameters()))
