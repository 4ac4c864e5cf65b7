"""Order of data, schedules, groups and the noise scale, each against a second way of computing it."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.errors import OptimizerError
from ckptgrow.planning.rates_by_size import lr_for_size
from ckptgrow.state.train_schedule import Schedule
from ckptgrow.train import order, parameter_groups
from ckptgrow.train.growing_batches import GrowingBatches
from ckptgrow.train.noise_scale import NoiseScale
from ckptgrow.train.order import BatchOrder, BatchShare, DataPosition, Passes, permuted
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import load_model, trained_checkpoint
from tests.helpers.paths import DOCS


def numbers(order: BatchOrder, num_batches: int) -> list[list[int]]:
    return [[number for number, _, _ in batch] for batch in islice(order, num_batches)]


def test_every_pass_sees_every_sequence_once_in_another_order() -> None:
    seen = [number for batch in numbers(BatchOrder(Passes(30, 1), 8, BatchShare(batch_size=5)), 12) for number in batch]
    assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30)) and seen[:30] != seen[30:]


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_devices_share_one_order(devices: int) -> None:
    whole = numbers(BatchOrder(Passes(50, 3), 8, BatchShare(batch_size=8)), 20)
    parts = [
        numbers(BatchOrder(Passes(50, 3), 8, BatchShare(batch_size=8 // devices, rank=rank, num_devices=devices)), 20)
        for rank in range(devices)
    ]
    joined = [[number for part in parts for number in part[index]] for index in range(20)]
    assert joined == whole


@pytest.mark.parametrize("num", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_the_order_of_a_pass_is_a_permutation_of_any_length(num: int) -> None:
    found = permuted(np.arange(num), num, key=5)
    assert sorted(found) == list(range(num))
    assert num < 64 or list(found) != list(permuted(np.arange(num), num, key=6))


def test_an_order_looks_random() -> None:
    """Neighbours and positions do not correlate: five standard errors of a coefficient over 20,000 numbers."""
    found = permuted(np.arange(20_000), 20_000, key=1).astype(float)
    for one, other in ((found[:-1], found[1:]), (found, np.arange(20_000))):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 20_000**0.5


def test_an_order_crosses_blocks_and_goes_on_from_any_position(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(islice(BatchOrder(Passes(17, 2), 8, BatchShare(batch_size=3)), 30))
    monkeypatch.setattr(order, "BLOCK", 5)
    start = DataPosition(whole[11][-1][2], 0)
    assert list(islice(BatchOrder(Passes(17, 2), 8, BatchShare(batch_size=3), start=start), 18)) == whole[12:]


def test_batches_and_sequences_grow_from_64_with_the_tokens_seen() -> None:
    growing = GrowingBatches(batch_tokens=400_000, sequence_tokens=300_000)
    batches = BatchOrder(Passes(10**6, 0), 512, BatchShare(batch_size=64, grad_accum=2, num_devices=2), growing=growing)
    found = list(islice(batches, 120))
    sizes, lengths = [2 * len(batch) for batch in found], [batch[0][1] for batch in found]  # over two devices
    assert sizes == sorted(sizes) and lengths == sorted(lengths)
    assert sizes[0] == 64 // 2 and sizes[-1] == 64 * 2 and lengths[0] == 64 and lengths[-1] == 512
    assert sizes[::2] == sizes[1::2]  # alike in all micro-batches of a step
    seen = 0
    for index in range(0, 120, 2):  # the course itself, step by step
        share_batch, share_length = min(1.0, seen / 400_000), min(1.0, seen / 300_000)
        assert sizes[index] * 2 == int(64 + (256 - 64) * share_batch) // 4 * 4
        assert lengths[index] == int(64 + (512 - 64) * share_length) // 8 * 8
        seen += sizes[index] * 2 * lengths[index]
    assert found[-1][-1][2] == sum(sizes)


def test_schedules_are_those_of_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    makers = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}
    for kind, maker in makers.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        reference = maker(optimizer, 10, 100)
        ours = Schedule(kind=kind, warmup=10, total=100)  # type: ignore[arg-type]
        for step in range(100):
            if step >= 10:  # theirs starts at 0, ours at 1/10: the first step is not lost
                assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
            optimizer.step()
            reference.step()


def test_a_schedule_that_ends_above_zero_is_that_of_transformers() -> None:
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = get_cosine_with_min_lr_schedule_with_warmup(optimizer, 10, 100, min_lr_rate=0.1)
    ours = Schedule(kind="cosine", warmup=10, total=100, floor=0.1)
    for step in range(100):
        if step >= 10:
            assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()
    assert ours(100) == pytest.approx(0.1)
    for kind, middle in (("linear", 0.55), ("wsd", 1.0), ("constant", 1.0)):
        course = Schedule(kind=kind, warmup=0, total=100, floor=0.1)  # type: ignore[arg-type]
        assert course(50) == pytest.approx(middle)
        assert course(100) == pytest.approx(1.0 if kind == "constant" else 0.1)


def test_a_schedule_rises_again_from_where_it_restarts() -> None:
    schedule = Schedule(kind="constant", warmup=0, total=100, rewarm_start=40, rewarm_steps=4)
    assert [schedule(step) for step in (39, 40, 41, 42, 43, 44)] == [1.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert Schedule(kind="wsd", warmup=0, total=100)(79) == 1.0 and Schedule(kind="wsd", warmup=0, total=100)(90) == 0.5


def test_the_learning_rate_by_size_is_the_scripts() -> None:
    assert lr_for_size(10**9) == pytest.approx(0.0019835) and lr_for_size(85_000_000) == pytest.approx(
        0.0021328, rel=1e-4
    )


def test_groups_of_a_checkpoint_resume_in_bare_pytorch(tmp_path: Path) -> None:
    def build(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)  # type: ignore[arg-type]

    small = perturbed_gpt2()
    source = trained_checkpoint(tmp_path / "small.ckpt", small, build)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule="mup"))
    runs = []
    for path in (source, tmp_path / "grown.ckpt"):
        model, checkpoint = load_model(path)
        optimizer = torch.optim.AdamW(parameter_groups(model, checkpoint))
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        runs.append(train(model, optimizer, token_batches(10, seed=4)))
    assert max(abs(one - other) for one, other in zip(*runs, strict=True)) <= 1e-10


def test_groups_are_found_in_a_file_of_ones_own(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    state = torch.optim.AdamW(model.parameters(), lr=1e-3).state_dict()
    (group,) = parameter_groups(model, {"model": {}, "optim": state, "step": 3})
    assert group["lr"] == 1e-3 and len(group["params"]) == len(list(model.parameters()))
    with pytest.raises(OptimizerError, match="no optimizer's state"):
        parameter_groups(model, {"model": {}, "step": 3})


def test_the_documented_script_resumes_a_grown_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)  # type: ignore[arg-type]

    monkeypatch.chdir(tmp_path)
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2().float(), build)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule="mup"))
    text = (DOCS / "how-to" / "own-scripts.md").read_text(encoding="utf-8")
    script = next(one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if '"grown.ckpt"' in one)
    assert len([line for line in script.splitlines() if line]) <= 10
    names: dict[str, Any] = {}
    exec(script, names)
    (rates,) = [one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "NewRates" in one]
    exec(rates, names)
    assert names["entries"]["transformer.wte.weight"].mask().float().mean() == 0.5
    names["rates"].remove()
    small, checkpoint = load_model(source)
    optimizer = torch.optim.AdamW(parameter_groups(small, checkpoint))
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    expected = train(small, optimizer, token_batches(5, seed=4))
    assert train(names["model"].eval(), names["optimizer"], token_batches(5, seed=4)) == pytest.approx(
        expected, abs=1e-5
    )


def test_groups_that_do_not_match_the_model_are_refused(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2())
    checkpoint = torch.load(source, weights_only=True)
    with pytest.raises(
        OptimizerError, match=r"28 parameters in groups of 28 fit the model's 40 parameters in more than one order"
    ):
        parameter_groups(perturbed_gpt2(n_layer=3), checkpoint)


def test_the_noise_scale_is_the_ratio_of_variance_to_squared_mean() -> None:
    """Gradients drawn around a known mean with a known covariance: B = tr Σ / |G|²."""
    generator = torch.Generator().manual_seed(0)
    mean, deviation, small, big = torch.randn(200, generator=generator), 3.0, 4, 64
    scale, found = NoiseScale(), None
    for _ in range(400):
        draws = mean + deviation * torch.randn(big, 200, generator=generator)
        norms = (float(part.mean(0).square().sum()) for part in (draws[:small], draws))
        found = scale.update(*norms, small, big)
    assert found == pytest.approx(200 * deviation**2 / float(mean.square().sum()), rel=0.15)
    assert NoiseScale().update(1.0, 1.0, 8, 8) is None
