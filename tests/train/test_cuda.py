"""What only a GPU shows: fp16 with a scaled loss, bf16, compilation, NCCL, FSDP; run with `pytest -m cuda`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import ckptgrow
from ckptgrow import StateRequest
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here, train_in_process

pytestmark = pytest.mark.cuda

ON_GPU = "--accelerator=cuda"  # the last of an option given twice counts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    config = config_file(data.parent)
    sizes = ["--train-steps=40", "--batch-size=4", "--grad-accum=2", "--save-every=20", ON_GPU]
    return [f"--data={data}", f"--config={config}", *sizes]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float32 on one GPU."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, f"--out={out}"])
    return out


def largest_difference(one: Path, other: Path, after: int = 0) -> float:
    expected, found = losses(one), losses(other)
    assert {step for step in expected if step > after} == {step for step in found if step > after}
    return max(abs(expected[step] - found[step]) for step in found if step > after)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true"])
def test_low_precision_follows_float32_and_resumes_exactly(
    tmp_path: Path, base: list[str], data: Path, whole: Path, precision: str
) -> None:
    """Tolerance: bfloat16 has 8 bits, and errors of a loss near 4 add up over 40 steps."""
    more = [f"--precision={precision}", "--grad-clip=1"]
    train_here([*base, *more, f"--out={tmp_path / 'a'}"])
    assert largest_difference(whole, tmp_path / "a") < 0.15
    source = tmp_path / "a" / "checkpoints" / "step-20.ckpt"
    train_here([f"--data={data}", f"--resume={source}", f"--out={tmp_path / 'b'}", ON_GPU, *more])
    assert largest_difference(tmp_path / "a", tmp_path / "b", after=20) < 1e-3


def test_the_scale_of_the_loss_goes_along_through_growth(tmp_path: Path, base: list[str], data: Path) -> None:
    fp16 = "--precision=16-mixed"
    train_here([*base, fp16, f"--out={tmp_path / 'a'}"])
    source, grown = tmp_path / "a" / "checkpoints" / "step-20.ckpt", tmp_path / "grown.ckpt"
    ckptgrow.width(source, grown, noise=0, request=StateRequest(lr_rule="mup"))
    scales = [torch.load(one, weights_only=True)["MixedPrecision"] for one in (source, grown)]
    assert scales[0] == scales[1]
    train_here([f"--data={data}", f"--resume={grown}", f"--out={tmp_path / 'b'}", ON_GPU, fp16])
    assert largest_difference(tmp_path / "a", tmp_path / "b", after=20) < 0.05
    assert torch.load(tmp_path / "b" / "checkpoints" / "last.ckpt", weights_only=True)["MixedPrecision"]["scale"] > 0


def test_compilation_changes_nothing_but_rounding(tmp_path: Path, base: list[str], whole: Path) -> None:
    train_here([*base, "--compile", f"--out={tmp_path / 'out'}"])
    assert largest_difference(whole, tmp_path / "out") < 1e-3


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_gpus_see_what_one_sees(tmp_path: Path, base: list[str], data: Path, whole: Path, strategy: str) -> None:
    """Over NCCL, on as many GPUs as there are and can share four sequences."""
    devices = 2 if torch.cuda.device_count() > 1 else 1
    arguments = [one if one != "--batch-size=4" else f"--batch-size={4 // devices}" for one in base]
    out = tmp_path / "out"
    train_in_process([*arguments, f"--devices={devices}", f"--strategy={strategy}", f"--out={out}"])
    assert largest_difference(whole, out) < 1e-3
    source = out / "checkpoints" / "step-20.ckpt"
    more = [f"--devices={devices}", f"--strategy={strategy}", f"--out={tmp_path / 'again'}", ON_GPU]
    train_in_process([f"--data={data}", f"--resume={source}", *more])
    assert largest_difference(out, tmp_path / "again", after=20) < 1e-3


def test_growth_in_memory_stays_on_the_gpu_and_is_that_of_the_cpu() -> None:
    config = GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0)
    grown: list[ckptgrow.LiveGrowth] = []
    model = GPT2LMHeadModel(config).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.arange(32).reshape(2, 16).cuda()
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    grown.append(ckptgrow.grow(model, optimizer, width=2))
    moved = GPT2LMHeadModel(config)
    moved.load_state_dict(model.state_dict())
    other = torch.optim.AdamW(moved.parameters(), lr=1e-3, fused=True)
    other.load_state_dict(optimizer.state_dict())
    grown.append(ckptgrow.grow(moved, other, width=2))
    on_gpu, on_cpu = grown
    for name, one in on_gpu.model.state_dict().items():
        assert one.is_cuda and torch.equal(one.cpu(), on_cpu.model.state_dict()[name])
    assert on_gpu.optimizer is not None and on_cpu.optimizer is not None
    pairs = zip(on_gpu.optimizer.state.values(), on_cpu.optimizer.state.values(), strict=True)
    assert all(one[key].is_cuda and torch.equal(one[key].cpu(), other[key]) for one, other in pairs for key in one)
    loss = on_gpu.model(tokens, labels=tokens).loss
    loss.backward()
    on_gpu.optimizer.step()
    assert float(on_gpu.model(tokens, labels=tokens).loss) < float(loss)
