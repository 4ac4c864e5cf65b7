"""Weights of few bits that growth rounds are told, in every family, and only where the function shows it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from tests.helpers.families import CASES, UNWIDENED, difference, loaded, perturbed
from tests.helpers.lightning_files import save_lightning

COPIED = [case for case in CASES if case not in UNWIDENED and case != "olmo tied"]  # whose final norm has no gain
REQUESTS: dict[str, dict[str, Any]] = {
    "twice": {"factor": 2},
    "thrice": {"factor": 3},
    "thrice, evenly": {"factor": 3, "how": "tile", "noise": 0},
    "twice, by new coordinates": {"factor": 2, "how": "pad"},
}
FLOAT32S = 1e-6  # of the largest logit: what norms of models that compute them in float32 lose


def notes_and_error(tmp_path: Path, case: str, dtype: torch.dtype, request: dict[str, Any]) -> tuple[list[str], float]:
    """What growth says of rounding, and how far the grown model's function is off in float64."""
    small = perturbed(case)
    torch.nn.Module.to(small, dtype)
    source = save_lightning(tmp_path / "small.ckpt", small)
    try:
        done = ckptgrow.width(source, tmp_path / "grown.ckpt", **request)
    except ckptgrow.RequestError:  # what cannot grow so has nothing to tell
        return [], 0.0
    grown, _ = loaded(tmp_path / "grown.ckpt")
    error, _ = difference(copy.deepcopy(small).double(), grown.double())
    return [note for note in done.notes if "are rounded once" in note], error


@pytest.mark.sampled(8)
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("case", COPIED)
def test_growth_tells_of_rounded_weights_where_the_function_shows_them(
    tmp_path: Path, case: str, request_name: str
) -> None:
    notes, error = notes_and_error(tmp_path, case, torch.bfloat16, REQUESTS[request_name])
    assert bool(notes) == (error > FLOAT32S)


@pytest.mark.parametrize("case", ["gemma", "llama"])
def test_float32_weights_are_not_spoken_of(tmp_path: Path, case: str) -> None:
    notes, error = notes_and_error(tmp_path, case, torch.float32, REQUESTS["twice, by new coordinates"])
    assert not notes and error < FLOAT32S


def test_the_factors_are_told(tmp_path: Path) -> None:
    notes, _ = notes_and_error(tmp_path, "gemma untied", torch.float16, REQUESTS["twice"])
    assert notes == [
        "weights times 0.707107 are rounded once in float16 (1 tensor): the function is kept up to that, which verify "
        "measures; float32 weights keep it"
    ]


def test_shares_of_new_layers_are_told(tmp_path: Path) -> None:
    """Three mentions of a layer write a third of the stream each."""
    source = save_lightning(tmp_path / "small.ckpt", perturbed("llama").bfloat16())
    done = ckptgrow.depth(source, tmp_path / "deep.ckpt", layers=[0, 0, 0, 1], new="ode")
    assert any("weights times 0.333333 are rounded once in bfloat16" in note for note in done.notes)
