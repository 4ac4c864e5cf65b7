"""Below the full level: layer by layer both models compute the same but for rounding, and what is stored is judged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import ckptgrow
from ckptgrow import VerifySettings
from ckptgrow.errors import RequestError
from ckptgrow.state.model import load_model
from ckptgrow.state.opening import open_state
from ckptgrow.state.streamed_model import streamed_model
from ckptgrow.verification import levels
from ckptgrow.verification.asymmetry import hidden_asymmetry, hidden_of_first
from ckptgrow.verification.comparison import open_pair
from ckptgrow.verification.precision import computing_in
from ckptgrow.verification.samples import logits_of, loss_of, parted, sample_batches
from tests.helpers.families import FIRST, UNWIDENED, still_run

Tree = dict[str, Any]
LOW = ("stored", "function")
ROUNDINGS = 4  # of the dtype, of the largest logit: where weights lie in memory decides the order of some sums
ROUNDINGS_OF = {"jamba": 8}  # of families whose states add such sums up


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Llama with AdamW's moments, and what it grew to by the default."""
    directory = tmp_path_factory.mktemp("pair")
    small = still_run(directory / "small.ckpt", "llama")
    ckptgrow.width(small, directory / "grown.ckpt")
    return small, directory / "grown.ckpt"


@pytest.mark.sampled(8)
@pytest.mark.parametrize("stored", [torch.float64, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", FIRST)
def test_a_streamed_model_has_the_logits_of_a_loaded_one(
    tmp_path: Path, case: str, dtype: torch.dtype, stored: torch.dtype
) -> None:
    tree = torch.load(still_run(tmp_path / "small.ckpt", case), weights_only=True)
    tree["state_dict"] = {name: tensor.to(stored) for name, tensor in tree["state_dict"].items()}
    torch.save(tree, tmp_path / "small.ckpt")
    state = open_state(tmp_path / "small.ckpt")
    sample = sample_batches(state, 1, None)[0]
    arguments = state.checkpoint, state.claim, state.config, dtype
    streamed = streamed_model(*arguments).module
    with torch.no_grad():
        expected, found = (logits_of(model, sample) for model in (load_model(*arguments), streamed))
    allowed = ROUNDINGS_OF.get(case, ROUNDINGS) * torch.finfo(dtype).eps
    assert (expected - found).abs().max() <= allowed * expected.abs().max()
    assert all(parameter.is_meta for parameter in streamed.parameters())  # and nothing of it stays in memory


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", FIRST)
def test_a_streamed_model_has_the_gradients_of_a_loaded_one(tmp_path: Path, case: str) -> None:
    state = open_state(still_run(tmp_path / "small.ckpt", case))
    sample = sample_batches(state, 1, None)[0]
    arguments = state.checkpoint, state.claim, state.config, torch.float64
    loaded, streamed = load_model(*arguments), streamed_model(*arguments)
    with computing_in(torch.float64):
        loss_of(loaded, sample).backward()
    expected = {name: one.grad for name, one in loaded.named_parameters() if one.grad is not None}
    found: dict[str, torch.Tensor] = {}
    streamed.backward(
        lambda: loss_of(streamed.module, sample),
        lambda name, one: found.update({name: one}),
        lambda: computing_in(torch.float64),
    )
    tie = state.family.tie
    if tie is not None and tie.head in expected and state.architecture.is_tied:  # which a module may have first
        expected = {tie.embedding if name == tie.head else name: one for name, one in expected.items()}
    assert found.keys() == expected.keys()
    largest = max(float(one.abs().max()) for one in expected.values())
    for name, gradient in expected.items():
        # parts of a tied tensor are added up in another order, and biases of keys have rounding alone
        assert torch.allclose(found[name], gradient, rtol=1e-12, atol=1e-15 * largest), name
    assert all(parameter.is_meta and parameter.grad is None for parameter in streamed.module.parameters())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [case for case in FIRST if case not in UNWIDENED])
def test_layer_by_layer_the_full_level_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    small = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(small, tmp_path / "grown.ckpt")
    expected = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=VerifySettings(level="full", batches=1))
    monkeypatch.setattr(levels.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    found = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=VerifySettings(level="full", batches=1))
    assert found.passed and found.level == "full"
    told = [one for one in found.sentences if one.startswith("gradients were taken layer by layer")]
    assert len(told) == 1 and [one for one in found.sentences if one not in told] == expected.sentences
    assert found.function is not None and expected.function is not None
    assert found.function.relative == pytest.approx(expected.function.relative, abs=1e-13)
    assert found.moments is not None and expected.moments is not None
    errors = [one.gradient_worst_relative_error for one in (found.moments, expected.moments)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-9)
    assert found.asymmetry is not None and expected.asymmetry is not None
    assert found.asymmetry.gradients == pytest.approx(expected.asymmetry.gradients, rel=1e-9, abs=1e-12)
    grown = open_state(tmp_path / "grown.ckpt")
    model = load_model(grown.checkpoint, grown.claim, grown.config, torch.float64)
    residual = open_pair(open_state(small), grown).growths["residual"]
    alone = hidden_asymmetry(hidden_of_first(model, sample_batches(open_state(small), 1, None)[0], residual), residual)
    for report in (found, expected):
        assert report.asymmetry is not None
        assert report.asymmetry.hidden_states == pytest.approx(alone, rel=1e-9, abs=1e-12)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [case for case in FIRST if case not in UNWIDENED])
def test_right_growths_pass_at_every_level(tmp_path: Path, case: str) -> None:
    small = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(small, tmp_path / "grown.ckpt")
    full = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=VerifySettings(level="full"))
    for level in LOW:
        report = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=VerifySettings(level=level))
        assert report.passed and report.level == level and full.moments is not None and report.moments is not None
        assert report.moments.num_compared == full.moments.num_compared
        assert (report.function is None) == (level == "stored")
        assert any(sentence.startswith(f"level {level}: ") for sentence in report.sentences)
        if report.function is not None:
            assert full.function is not None and abs(report.function.relative - full.function.relative) < 1e-13


PROGRAM = """
import sys
from pathlib import Path
import ckptgrow
from ckptgrow.verification import comparison

comparison.free_bytes = lambda: 0
settings = ckptgrow.VerifySettings(level=sys.argv[3], dtype="float32", batches=1)
assert ckptgrow.verify(sys.argv[1], sys.argv[2], settings=settings).passed
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(peak.split()[1])
"""


def _peak(directory: Path, num_layers: int, level: str) -> int:
    """The largest resident size in bytes of a process that verifies a Llama that has become twice as wide."""
    config = LlamaConfig(
        hidden_size=192,
        intermediate_size=768,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_hidden_layers=num_layers,
        vocab_size=256,
    )
    LlamaForCausalLM(config).save_pretrained(directory / "small")
    ckptgrow.width(directory / "small", directory / "grown")
    command = [sys.executable, "-c", PROGRAM, str(directory / "small"), str(directory / "grown"), level]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells a process's peak there")
@pytest.mark.parametrize("level", ["function", pytest.param("full", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_depth(tmp_path: Path, level: str) -> None:
    shallow, deep = (_peak(tmp_path / str(layers), layers, level) for layers in (12, 48))
    of_a_layer = 4 * (4 * 192**2 + 3 * 192 * 768)  # bytes in float32; of the grown one four times as many
    assert deep - shallow < (48 - 12) * (1 + 4) * of_a_layer / 3  # allocators keep some of what they had


def _scaled(value: torch.Tensor) -> torch.Tensor:
    changed = value.clone()
    changed.view(-1)[7] *= 1.01
    return changed


def _a_weight(tree: Tree) -> None:
    name = "model.model.layers.1.mlp.down_proj.weight"
    tree["state_dict"][name] = _scaled(tree["state_dict"][name])


def _a_moment(key: str) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        record = tree["optimizer_states"][0]["state"][3]
        record[key] = _scaled(record[key])

    return change


def _a_factor(tree: Tree) -> None:
    tree["optimizer_states"][0]["state"][5]["exp_avg"] *= 2


def _a_rate(tree: Tree) -> None:
    tree["optimizer_states"][0]["param_groups"][0]["lr"] = 1e-3  # they train at none


def _a_step(tree: Tree) -> None:
    tree["optimizer_states"][0]["state"][4]["step"] += 1


PLANTED = {
    "weight": _a_weight,
    "exp_avg": _a_moment("exp_avg"),
    "exp_avg_sq": _a_moment("exp_avg_sq"),
    "factor": _a_factor,
    "rate": _a_rate,
    "step": _a_step,
}


@pytest.mark.parametrize("level", LOW)
@pytest.mark.parametrize("change", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_mistake_is_told_as_at_the_full_level(
    tmp_path: Path, pair: tuple[Path, Path], level: Any, change: Callable[[Tree], None]
) -> None:
    tree = torch.load(pair[1], weights_only=True)
    change(tree)
    torch.save(tree, tmp_path / "changed.ckpt")
    full, low = (
        ckptgrow.verify(pair[0], tmp_path / "changed.ckpt", settings=VerifySettings(level=one))
        for one in ("full", level)
    )
    assert not low.passed
    told = [sentence for sentence in full.sentences if not sentence.startswith(("the function", "trapped"))]
    assert told and set(told) <= set(low.sentences)


def test_a_function_that_differs_is_seen_with_one_layer_in_memory(tmp_path: Path) -> None:
    small = still_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.depth(small, tmp_path / "grown.ckpt", new="copy")
    settings = [VerifySettings(level=level) for level in ("stored", "function", "full")]
    stored, function, full = (ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=one) for one in settings)
    assert stored.passed and not function.passed and function.function == full.function


def test_memory_chooses_the_level_and_the_report_says_why(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    report = ckptgrow.verify(*pair)
    assert report.passed and report.level == "function"
    assert any("0.0 GiB are free" in sentence for sentence in report.sentences)
    assert ckptgrow.verify(*pair, settings=VerifySettings(level="full")).level == "full"
    assert ckptgrow.verify(*pair, settings=VerifySettings(steps=1)).level == "full"


@pytest.mark.parametrize("level", LOW)
@pytest.mark.parametrize(("option", "value"), [("steps", 3), ("device", "cuda")])
def test_what_a_level_cannot_do_is_refused(pair: tuple[Path, Path], level: Any, option: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"level=.{level}.*{option}"):
        ckptgrow.verify(*pair, settings=VerifySettings(level=level, **{option: value}))


@pytest.mark.parametrize(("length", "num_batches", "taken"), [(256, 4, 1), (100, 4, 3), (16, 4, 4), (256, 1, 1)])
def test_gradients_are_taken_on_the_first_sequences_and_logits_compared_on_all(
    length: int, num_batches: int, taken: int
) -> None:
    batches = [*torch.arange(num_batches * 2 * length).reshape(num_batches, 2, length)]
    few, others = parted(batches)
    assert sum(len(one) for one in few) == taken
    assert torch.equal(torch.cat([*few, *others]), torch.cat(batches))
    assert max(map(len, few)) <= 2


def test_of_images_gradients_are_taken_on_two_batches() -> None:
    batches = [*torch.zeros(4, 2, 3, 8, 8)]
    few, others = parted(batches)
    assert (len(few), len(others)) == (2, 2)
