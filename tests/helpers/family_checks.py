"""What every family's growth must keep, against transformers' own forward pass, autograd and a real AdamW."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

import ckptgrow
from tests.helpers.families import (
    LAYERS_OF,
    batches,
    difference,
    loaded,
    perturbed,
    still,
    still_run,
    trained,
)

# a LayerNorm's backward pass takes away the mean of all gradients, those of new coordinates among them
LAYER_NORM = (
    "gpt2",
    "gpt_neox",
    "starcoder2",
    "stablelm",
    "vit",
    "gptj",
    "gpt_bigcode",
    "cohere",
    "cohere2",
    "cohere2_moe",
    "nemotron",
    "jais2",
    "persimmon",
    "phimoe",
    "falcon",
    "opt",
    "phi",
    "gpt_neo",
)
ROUTERS_IN_FLOAT32 = (
    "ernie4_5_moe",
    "hunyuan_v1_moe",
)  # transformers loads theirs so, whatever the dtype that is asked for
EXACT = 1e-12  # of the largest logit, a few hundred roundings of float64
FLOAT32 = 4e-6  # where the model itself casts to float32: RMSNorm, softmax, rotary angles
FLOAT32_OF = {"qwen3_next": 1e-5}  # the delta rule's state adds such roundings up


def slow_but(cases: Sequence[str], quick: Sequence[str]) -> list[Any]:
    """All cases; those not in `quick` take minutes together."""
    return [pytest.param(case, marks=() if case in quick else pytest.mark.slow) for case in cases]


def check_width(tmp_path: Path, case: str, factor: int, how: Any) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=factor, how=how, noise=0)
    check_function(small, tmp_path / "grown.ckpt")
    check_moments(tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


def check_depth(tmp_path: Path, case: str, place: Any, new: Any) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    layers = LAYERS_OF.get(case)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", place=place, new=new, layers=layers)
    grown = check_function(small, tmp_path / "grown.ckpt")
    assert grown.config.num_hidden_layers == 4
    fresh = {"alternate": (1, 3), "append": (2, 3)}["append" if layers else place]
    check_moments(tmp_path / "grown.ckpt", fresh=fresh)
    check_verified(source, tmp_path / "grown.ckpt")


def check_function(small: PreTrainedModel, path: Path) -> PreTrainedModel:
    grown, _ = loaded(path)
    exact, as_it_is = difference(small, grown)
    assert exact <= EXACT and as_it_is <= FLOAT32_OF.get(small.config.model_type, FLOAT32), (exact, as_it_is)
    return grown


def check_moments(path: Path, fresh: tuple[int, ...] = ()) -> None:
    """Every stored moment equals that of an AdamW which saw the same batches in the grown model."""
    grown, tree = loaded(path)
    real = still(grown.parameters())
    trained(grown, real, batches(5))
    stored = tree["optimizer_states"][0]["state"]
    floor = max(float(one["exp_avg"].abs().max()) for one in real.state.values()) * 1e-6
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        if not parameter.requires_grad:
            assert index not in stored
            continue
        number = re.search(r"\.(\d+)\.", name)  # the first one in a name is its layer's
        is_fresh = number is not None and int(number[1]) in fresh
        assert float(stored[index]["step"]) == (0 if is_fresh else 5)
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            found, expected = stored[index][key], real.state[parameter][key]
            if is_fresh:
                assert not found.any()
                continue
            # key biases under softmax have no gradient at all: rounding is compared with the others' size
            largest = max(float(expected.abs().max()), floor**power)
            assert float((found - expected).abs().max()) <= 1e-9 * largest, (name, key)


def check_verified(source: Path, target: Path) -> None:
    report = ckptgrow.verify(source, target)
    assert report.passed, (report.structure, report.function, report.moments)
