"""What is stored is compared block by block: how large blocks are changes no number of a report, a wrong entry is named
wherever it lies, and memory does not grow with a tensor.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

import ckptgrow
from ckptgrow import VerifySettings
from ckptgrow.spaces.growth import FRESH, Growth, copies, padded
from ckptgrow.spaces.layout import parse
from ckptgrow.state.claim import Claimed
from ckptgrow.storage.tensors import InMemory
from ckptgrow.verification import tensor_blocks
from ckptgrow.verification.pair import Link
from ckptgrow.verification.report import VerifyReport
from ckptgrow.verification.tensor_blocks import blocks_of
from tests.helpers.families import still_run
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning

Tree = dict[str, Any]
STORED = VerifySettings(level="stored")
WHOLE = 2**40  # entries: every tensor is one block


def averaged(path: Path) -> Path:
    """A run with an average of its weights."""
    tree = torch.load(still_run(path, "llama"), weights_only=True)
    averages = {f"ema.{name}": 0.9 * one + 0.01 for name, one in tree["state_dict"].items()}
    tree["state_dict"] = {**tree["state_dict"], **averages}
    torch.save(tree, path)
    return path


def factored(path: Path) -> Path:
    """A run whose second moments are stored as two factors."""
    model = perturbed_gpt2()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    train(model, optimizer, token_batches(3))
    return save_lightning(path, model, [optimizer])


RUNS: Mapping[str, tuple[Callable[[Path], Path], Callable[[Path, Path], object]]] = {
    "split": (lambda path: still_run(path, "gpt2"), ckptgrow.width),
    "noise": (lambda path: still_run(path, "gpt2"), lambda old, new: ckptgrow.width(old, new, noise=0.3)),
    "uneven copies": (lambda path: still_run(path, "llama"), lambda old, new: ckptgrow.width(old, new, ffn=37)),
    "experts": (lambda path: still_run(path, "mixtral"), ckptgrow.width),
    "depth": (lambda path: still_run(path, "llama"), ckptgrow.depth),
    "an average": (averaged, ckptgrow.width),
    "factors": (factored, ckptgrow.width),
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """Each run, and what it grew to."""
    directory = tmp_path_factory.mktemp("runs")
    pairs: dict[str, tuple[Path, Path]] = {}
    for name, (build, grow) in RUNS.items():
        small, large = build(directory / f"{name}.ckpt"), directory / f"{name}, grown.ckpt"
        grow(small, large)
        pairs[name] = small, large
    return pairs


def tensors_of(tree: Tree) -> list[tuple[str, torch.Tensor]]:
    """The weights and averages by name, the moments by key and name, as reports call them."""
    state = tree["optimizer_states"][0]["state"]
    of_model = [name for name in tree["state_dict"] if name.startswith("model.")]
    names = [name for name in of_model if name != "model.lm_head.weight" or len(of_model) == len(state)]
    moments = [
        (f"{key} of {name}" if "_var" not in key else name, value)
        for name, record in zip(names, state.values(), strict=True)
        for key, value in record.items()
        if isinstance(value, torch.Tensor) and value.dim()
    ]
    return [*tree["state_dict"].items(), *moments]


def verified(small: Path, large: Path, entries: int) -> VerifyReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_blocks, "ENTRIES", entries)
        return ckptgrow.verify(small, large, settings=STORED)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_wrong_entry_is_named_alike_however_tensors_are_cut(
    grown: Mapping[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    small, large = grown[data.draw(st.sampled_from([*RUNS]))]
    tree = torch.load(large, weights_only=True)
    tensors = tensors_of(tree)
    _, tensor = data.draw(st.sampled_from(tensors), label="tensor")
    names = [name for name, one in tensors if one.data_ptr() == tensor.data_ptr()]  # of tied ones several
    entries = data.draw(st.sampled_from([7, 64, 100, 1000]), label="entries")
    edges = {0, tensor.numel() - 1, min(entries, tensor.numel()) - 1, entries % tensor.numel()}
    at = data.draw(st.sampled_from([*sorted(edges), tensor.numel() // 2]), label="place")
    flat = tensor.view(-1)
    flat[at] = flat[at] * 1.01 if flat[at] else 1e-3
    wrong = tmp_path_factory.getbasetemp() / "wrong.ckpt"
    torch.save(tree, wrong)
    report = verified(small, wrong, entries)
    assert not report.passed
    assert any(name in sentence for name in names for sentence in report.sentences), report.sentences
    assert report == verified(small, wrong, WHOLE)


@pytest.mark.parametrize("name", RUNS)
def test_what_is_right_has_the_same_report_in_small_blocks(grown: Mapping[str, tuple[Path, Path]], name: str) -> None:
    report = verified(*grown[name], 50)
    assert report.passed and report == verified(*grown[name], WHOLE)


GROWTHS: Mapping[str, Growth] = {
    "same": copies(6, 6),
    "blocks": copies(6, 12),
    "uneven": copies(5, 8),
    "beside": Growth(source=np.repeat(np.arange(4), 3), write=np.ones(12), read=np.full(12, 1 / 3), num_old=4),
    "padded": padded(5, 9),
    "lost": Growth(source=np.array([3, FRESH, 0, 4, FRESH]), write=np.ones(5), read=np.ones(5), num_old=6),
}


def claimed(layout: str) -> Claimed:
    fields: dict[str, Any] = dict.fromkeys(("name", "bare", "template", "pattern", "inner"), "weight")
    return Claimed(layer=None, prefix="", layout=parse(layout), is_buffer=False, **fields)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_entry_lies_in_one_block_beside_its_source(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(["rows", "rows <- columns", "columns -> rows", "depths: rows <- columns"]))
    growths = {space: GROWTHS[data.draw(st.sampled_from([*GROWTHS]))] for space in ("rows", "columns", "depths")}
    link = Link.of(claimed(layout), claimed(layout), growths)
    axes = [axis.growth(growths) for axis in link.grown.layout.axes]
    small, large = (torch.arange(float(np.prod(shape))).reshape(shape) for shape in _shapes(axes))
    found_small, found_large, sums = list[float](), list[float](), dict[float, float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_blocks, "ENTRIES", data.draw(st.integers(1, 300)))
        for block in blocks_of(link, tuple(large.shape)):
            before, after = block.small(InMemory(small)), block.grown(InMemory(large))
            found_small += before.flatten().tolist()
            found_large += after.flatten().tolist()
            sums |= dict(zip(after.flatten().tolist(), block.link.spread(before).flatten().tolist(), strict=True))
    assert sorted(found_small) == sorted(link.left_part(small).flatten().tolist())
    assert sorted(found_large) == sorted(link.copied_part(large).flatten().tolist())
    sources = link.spread(link.left_part(small)).flatten().tolist()
    assert sums == dict(zip(link.copied_part(large).flatten().tolist(), sources, strict=True))


def _shapes(axes: list[Growth]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(axis.num_old for axis in axes), tuple(axis.num_new for axis in axes)


PEAK = """
import sys, ckptgrow
from ckptgrow import VerifySettings
assert ckptgrow.verify(sys.argv[1], sys.argv[2], settings=VerifySettings(level=sys.argv[3])).passed
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""  # a child's ru_maxrss begins at its parent's size


@pytest.mark.slow
def test_stored_tensors_of_any_size_are_compared_within_a_gibibyte(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=150_000, n_embd=512, n_head=8, n_layer=1, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    # an embedding of 307 MB, grown 614 MB, 1.2 GB in float64
    small = save_lightning(tmp_path / "small.ckpt", model, [optimizer])
    ckptgrow.width(small, tmp_path / "grown.ckpt")
    command = [sys.executable, "-c", PEAK, str(small), str(tmp_path / "grown.ckpt"), "stored"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak <= 2**20, peak  # KiB
