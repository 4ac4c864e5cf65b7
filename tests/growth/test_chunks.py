"""Large tensors are made a few rows at a time. Tiny ones are too when a chunk is one byte: nothing may depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.growth.tensors import blended_rows
from ckptgrow.state.opening import open_state
from ckptgrow.storage import fingerprint, tensors
from ckptgrow.storage.files import tensor_writing
from ckptgrow.storage.tensors import CHUNK_BYTES, is_lazy, whole
from tests.helpers.families import CASES, still_run
from tests.helpers.trainer_files import SAMPLES, config_beside

GROWTHS: dict[str, tuple[str, dict[str, Any]]] = {
    "split": ("width", {"factor": 2}),
    "thrice, by noise": ("width", {"factor": 3, "noise": 1.0}),
    "new coordinates": ("width", {"factor": 2, "how": "pad"}),
    "zero-copy": ("width", {"factor": 2, "how": "pad", "fresh": "zero-copy"}),
    "mean moments": ("width", {"how": "pad", "request": ckptgrow.StateRequest(fresh_moments="mean")}),
    "mup": ("width", {"request": ckptgrow.StateRequest(lr_rule="mup")}),
    "shares of layers": ("depth", {"new": "ode"}),
    "drawn layers": ("depth", {"new": "random"}),
    "more tokens": ("vocab", {"size": 400}),
    "more positions": ("positions", {"size": 200}),
    "more experts": ("experts", {"experts": 8, "experts_per_token": 4}),
}
ROUNDING = 1e-14  # means and root mean squares are summed in another order


def in_chunks(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    for module in (tensors, fingerprint, tensor_writing, blended_rows):
        monkeypatch.setattr(module, "CHUNK_BYTES", num_bytes)
    monkeypatch.setattr(blended_rows, "BAND_BYTES", 24 * num_bytes)


def numbers_in(path: Path, config: Path | None) -> dict[str, torch.Tensor]:
    """Every weight and every tensor of the optimizers."""
    state = open_state(path, config=config)
    found = {name: whole(one) for name, one in state.checkpoint.tensors.items()}
    for index, optimizer in enumerate(state.optimizers):
        for name, record in optimizer.state.items():
            found |= {f"{index} {name} {key}": whole(one) for key, one in record.items() if is_lazy(one)}
    return found


def check_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        found, expected = other[name].double(), tensor.double()
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        rounding = ROUNDING if tensor.dtype == torch.float64 else 2 * torch.finfo(torch.bfloat16).eps
        torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding * scale, msg=name)


def grown_both_ways(
    monkeypatch: pytest.MonkeyPatch, source: Path, directory: Path, growth: str, config: Path | None = None
) -> None:
    operator, options = GROWTHS[growth]
    request = options.get("request", ckptgrow.StateRequest())
    if config is not None:
        request = ckptgrow.StateRequest(config=config)
    grow, targets = getattr(ckptgrow, operator), (directory / f"a{source.suffix}", directory / f"b{source.suffix}")
    try:
        grow(source, targets[0], **{**options, "request": request})
    except ckptgrow.CkptgrowError:
        return  # not in this family
    in_chunks(monkeypatch, 1)
    grow(source, targets[1], **{**options, "request": request})
    in_chunks(monkeypatch, CHUNK_BYTES)
    check_same(*(numbers_in(target, None) for target in targets))


@pytest.mark.sampled(12)
@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("case", CASES)
def test_growth_row_by_row_makes_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, growth: str
) -> None:
    grown_both_ways(monkeypatch, still_run(tmp_path / "small.ckpt", case), tmp_path, growth)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("growth", ["split", "new coordinates", "zero-copy", "drawn layers"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_so_it_does_from_trainers_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: str, growth: str
) -> None:
    source = SAMPLES[sample]
    grown_both_ways(monkeypatch, source, tmp_path, growth, config_beside(source))
