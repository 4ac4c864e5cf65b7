"""Trainers that pip installs go on from a grown state with their own code, at the loss that the small one had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ckptgrow
from tests.helpers.paths import ROOT
from tests.helpers.trainer_files import OLMO_CORE, SAMPLES, trained_llama

LITGPTS_LOG = 1e-4  # its losses are sums over micro-batches in float32
FLOAT32 = 1e-5
BFLOAT16 = 1e-2  # both compute in it, in another order


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["width", "depth"])
@pytest.mark.parametrize(
    ("name", "package", "script", "rounding"),
    [
        *((name, "litgpt", "make_litgpt.py", LITGPTS_LOG) for name in ("litgpt-llama", "litgpt-mixtral")),
        *((name, "olmo_core", "make_olmo_core.py", FLOAT32) for name in OLMO_CORE),
    ],
)
def test_the_real_trainer_resumes_the_grown_state_at_the_small_ones_loss(
    tmp_path: Path, name: str, package: str, script: str, rounding: float, operator: str
) -> None:
    pytest.importorskip(package)
    source, target = SAMPLES[name], tmp_path / SAMPLES[name].name
    getattr(ckptgrow, operator)(source, target, factor=2)
    small, grown = losses(script, source), losses(script, target)
    assert len(small) == len(grown) == 3
    assert abs(small[0] - grown[0]) <= rounding * small[0]
    assert grown[0] > grown[1] > grown[2]


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["width", "depth"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "bf16"])
def test_megatron_resumes_the_grown_state_at_the_small_ones_loss(tmp_path: Path, name: str, operator: str) -> None:
    pytest.importorskip("megatron.core")
    source = ROOT / "fixtures" / "trainers" / "megatron" / name
    request = ckptgrow.StateRequest(config=None if name == "llama" else source.with_name(f"{name}.json"))
    getattr(ckptgrow, operator)(source, tmp_path / name, factor=2, request=request)
    small, grown = (losses("make_megatron.py", path, name) for path in (source, tmp_path / name))
    assert len(small) == len(grown) == 3
    assert abs(small[0] - grown[0]) <= FLOAT32 * small[0]
    assert grown[0] > grown[1] > grown[2]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_megatron_takes_a_state_that_was_transformers(tmp_path: Path, dtype: torch.dtype) -> None:
    """Its loss is the one that transformers' model has of the same tokens, and it trains on."""
    pytest.importorskip("megatron.core")
    from transformers import AutoModelForCausalLM

    source = trained_llama(tmp_path / "hf", dtype)
    ckptgrow.convert(source, tmp_path / "a", "megatron")
    found = losses("make_megatron.py", tmp_path / "a", "llama" if dtype == torch.float32 else "bf16")
    tokens = torch.arange(16)[None] * 7 % 32  # the script's
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()(tokens).logits
    expected = float(torch.nn.functional.cross_entropy(logits[0, :-1].float(), tokens[0, 1:]))
    assert abs(found[0] - expected) <= (FLOAT32 if dtype == torch.float32 else BFLOAT16) * expected
    assert found[0] > found[1] > found[2]


@pytest.mark.slow
def test_composer_takes_a_state_that_was_transformers_where_its_own_was(tmp_path: Path) -> None:
    pytest.importorskip("composer")
    source = ROOT / "fixtures" / "trainers" / "composer" / "llama.pt"
    ckptgrow.convert(source, tmp_path / "hf", "huggingface")
    ckptgrow.convert(tmp_path / "hf", tmp_path / "a.pt", "composer")
    own = losses("make_composer.py", source, "DecoupledAdamW")
    found = losses("make_composer.py", tmp_path / "a.pt", "AdamW")
    assert len(own) == len(found) == 4 and own[0] == found[0]


def losses(script: str, path: Path, *arguments: str) -> list[float]:
    script_path = ROOT / "fixtures" / "trainers" / script
    command = [sys.executable, "-W", "ignore", str(script_path), str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("loss ")]
