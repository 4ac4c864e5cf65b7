"""Documents that share a sequence: each is to the model what it is alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from ckptgrow.errors import RequestError
from ckptgrow.families.registry import FAMILIES
from ckptgrow.probe.held_out import HeldOut
from ckptgrow.train.isolation import Isolation, check_isolates, logits_of
from ckptgrow.train.order import BatchOrder, BatchShare, Passes
from tests.helpers.families import CASES, FIRST, InFloat64, of_its_dtype, perturbed
from tests.helpers.lightning_files import load_model
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here, weights

CAUSAL = [case for case in FIRST if FAMILIES[CASES[case][0]].head == "causal"]
# positions by distance alone, or counted from the sequence's beginning; masks that are made without positions; states
# and convolutions that run through the sequence
STATEFUL = (
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "lfm2",
    "lfm2_moe",
    "mamba",
    "falcon_mamba",
    "mamba2",
    "falcon_h1",
    "bamba",
    "granitemoehybrid",
    "jamba",
)
SEES_OTHERS = ("falcon", "biogpt", "bloom", "mpt", "opt", "xglm", "gpt_oss", *STATEFUL)
EXACT = 1e-12  # float64 logits of about 1
SEPARATOR = 0


def documents(tokens: torch.Tensor) -> list[torch.Tensor]:
    """One sequence, cut behind every separator."""
    ends = [number + 1 for number, token in enumerate(tokens.tolist()) if token == SEPARATOR]
    return [one for one in torch.tensor_split(tokens, ends) if len(one)]


def alone(model: torch.nn.Module, sequence: torch.Tensor) -> torch.Tensor:
    """The logits of every document by itself, one behind the other; shape (tokens, vocabulary)."""
    with torch.no_grad():
        return torch.cat([model(input_ids=one[None]).logits[0] for one in documents(sequence)])


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", [case for case in CAUSAL if case not in SEES_OTHERS])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_of_packed_documents_are_those_of_each_alone(case: str, attention: str) -> None:
    """In float64; documents of 1, 6, 2 and 3 tokens, and one that the sequence cuts."""
    model = perturbed(case).double().eval()
    if attention != "eager" and not getattr(model, "_supports_sdpa", False):
        return
    model.set_attn_implementation(attention)
    check_isolates(model)
    tokens = torch.tensor(
        [[0, 3, 9, 4, 7, 1, 0, 5, 0, 9, 9, 0, 2, 2, 8], [8, 1, 2, 3, 4, 5, 6, 7, 9, 0, 0, 4, 1, 5, 0]]
    )
    with InFloat64(), torch.no_grad():
        packed = logits_of(model, tokens, Isolation(SEPARATOR, 1.0))
        expected = torch.stack([alone(model, one) for one in tokens])
        joined = logits_of(model, tokens, None)
    assert float((packed - expected).abs().max()) <= EXACT * float(expected.abs().max())
    assert float((joined - expected).abs().max()) > 1e-3 * float(expected.abs().max())  # or this shows nothing


@pytest.mark.parametrize("case", SEES_OTHERS)
def test_families_that_cannot_are_refused(case: str) -> None:
    model = perturbed(case)
    with of_its_dtype(model), pytest.raises(RequestError, match="isolated"):
        check_isolates(model)


def test_positions_restart_behind_every_separator() -> None:
    found = Isolation(7, 1.0).positions(torch.tensor([[7, 7, 1, 2, 7, 3], [1, 2, 3, 7, 1, 1]]))
    assert found.tolist() == [[0, 0, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(data: Path) -> list[str]:
    sizes = ["--train-steps=20", "--batch-size=4", "--grad-accum=2", "--save-every=5", "--documents=isolated"]
    return [f"--data={data}", f"--config={config_file(data.parent)}", *sizes]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, f"--out={out}", "--val-every=5"])
    return out


def read(data: Path, split: str, numbers: Sequence[int]) -> torch.Tensor:
    tokens = np.fromfile(data / f"{split}.bin", dtype=np.uint16).astype(np.int64)
    return torch.stack([torch.from_numpy(tokens[16 * number : 16 * number + 17]) for number in numbers])


def summed(model: torch.nn.Module, sequences: torch.Tensor) -> tuple[float, int]:
    """Cross-entropies of all predictions within documents, each document alone; their sum and number."""
    total, num = 0.0, 0
    for sequence in sequences:
        logits, targets = alone(model, sequence[:-1]), sequence[1:]
        kept = sequence[:-1] != SEPARATOR
        total += float(torch.nn.functional.cross_entropy(logits[kept], targets[kept], reduction="sum"))
        num += int(kept.sum())
    return total, num


def test_no_loss_is_counted_across_a_boundary(whole: Path, data: Path) -> None:
    """Step 6 and the validation before it, from the weights of step 5."""
    model, _ = load_model(whole / "checkpoints" / "step-5.ckpt")
    model.eval()
    meta = json.loads((data / "meta.json").read_text())
    kept = 1 - meta["num_documents"]["train"] / meta["num_tokens"]["train"]
    order = BatchOrder(Passes((meta["num_tokens"]["train"] - 1) // 16, 3), 16, BatchShare(batch_size=8))
    numbers = [number for number, _, _ in next(islice(order, 5, None))]
    total, num = summed(model, read(data, "train", numbers))
    assert num < 8 * 16  # some boundaries are among them
    assert losses(whole)[6] == pytest.approx(total / (kept * 8 * 16), abs=2e-6)  # float32 sums
    total, num = summed(model, read(data, "val", range(min(64, (meta["num_tokens"]["val"] - 1) // 16))))
    assert losses(whole, "val_loss")[5] == pytest.approx(total / num, abs=2e-6)


def test_an_isolated_run_goes_on_as_such_to_the_bit(tmp_path: Path, base: list[str], whole: Path) -> None:
    out = tmp_path / "out"
    train_here([*base, f"--out={out}", "--stop-at=13"])
    train_here([base[0], f"--out={out}", f"--resume={out / 'checkpoints' / 'last.ckpt'}"])
    assert losses(out) == losses(whole)
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, out))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_another_division_into_micro_batches_has_the_same_loss(tmp_path: Path, base: list[str], whole: Path) -> None:
    """Though these have unequal numbers of predictions."""
    source = whole / "checkpoints" / "step-5.ckpt"
    more = [f"--resume={source}", "--batch-size=1", "--grad-accum=8"]
    train_here([base[0], f"--out={tmp_path / 'out'}", *more])
    found = losses(tmp_path / "out")
    assert max(abs(found[step] - losses(whole)[step]) for step in found) <= 2e-6  # float32 sums in another order


def test_joined_again_where_asked(tmp_path: Path, base: list[str], whole: Path) -> None:
    source = f"--resume={whole / 'checkpoints' / 'step-5.ckpt'}"
    train_here([base[0], f"--out={tmp_path / 'out'}", source, "--documents=joined", "--stop-at=6"])
    assert abs(losses(tmp_path / "out")[6] - losses(whole)[6]) > 1e-3


def test_candidates_of_a_probe_are_compared_the_same_way(whole: Path, data: Path) -> None:
    model, _ = load_model(whole / "checkpoints" / "step-5.ckpt")
    found = HeldOut(data, 16, 4, "isolated").losses(model.eval())
    num = (json.loads((data / "meta.json").read_text())["num_tokens"]["val"] - 1) // 16
    numbers = [int(one) for one in np.linspace(0, num - 1, 4)]
    sums = [summed(model, read(data, "val", [number])) for number in numbers]
    assert found == pytest.approx([total / kept for total, kept in sums], abs=2e-6)  # float32 sums


def test_isolation_that_cannot_be_is_one_line(
    tmp_path: Path, data: Path, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bloom, old = tmp_path / "bloom.json", tmp_path / "old"
    sizes = {"vocab_size": 256, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    bloom.write_text(json.dumps({"model_type": "bloom", **sizes, "bos_token_id": 1, "eos_token_id": 2}))
    old.mkdir()
    for name in ("train.bin", "val.bin"):
        (old / name).symlink_to(data / name)
    meta = json.loads((data / "meta.json").read_text())
    (old / "meta.json").write_text(json.dumps({name: value for name, value in meta.items() if name != "separator"}))
    for arguments, words in (
        ([*base, f"--config={bloom}"], ["--documents isolated", "BloomForCausalLM", "--documents"]),
        ([*base, f"--data={old}"], ["--documents isolated", "separator"]),
        ([*base, "--documents=both"], ["--documents", "isolated"]),
    ):
        capsys.readouterr()
        train_here([*arguments, f"--out={tmp_path / 'out'}"], expected=2)
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert not (tmp_path / "out").exists()
