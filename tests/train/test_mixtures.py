"""Several sources in one run: their shares, their order, their validation, and what is refused."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptgrow
from ckptgrow.cli import run as run_command
from ckptgrow.data.preparation import prepare
from ckptgrow.train.order import BatchOrder, BatchShare, MixedPasses
from tests.helpers.lightning_files import load_model
from tests.helpers.training_runs import config_file, losses, rows, tiny_data, train_here, weights

SHARES = [(0.7, 0.3), (0.5, 0.5), (0.98, 0.0199, 0.0001), (0.31, 0.29, 0.23, 0.17)]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other documents, in a directory of another name."""
    home = tmp_path_factory.mktemp("code")
    lines = [f"def f{number}(x): return {number} * x + {number**2}" for number in range(40)]
    (home / "text.txt").write_text("\n".join(lines))
    prepare([str(home / "text.txt")], home / "code", val_fraction=0.2)
    return home / "code"


@pytest.fixture(scope="module")
def base(web: Path, code: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    config = config_file(tmp_path_factory.mktemp("config"))
    sizes = ["--train-steps=40", "--batch-size=4", "--grad-accum=2", "--save-every=10", "--val-every=20"]
    return [f"--data={web}:0.7,{code}:0.3", f"--config={config}", *sizes]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([*base, f"--out={out}"])
    return out


def sources_of(drawn: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Whose every sequence is."""
    return np.searchsorted(np.cumsum(sizes), drawn, side="right")


@pytest.mark.parametrize("shares", SHARES)
def test_after_any_number_of_draws_every_source_has_its_share(shares: tuple[float, ...]) -> None:
    sizes = [30 + 7 * number for number in range(len(shares))]
    source = sources_of(MixedPasses(sizes, shares, seed=4).between(0, 20_000), sizes)
    drawn = np.arange(1, 20_001)
    for number, share in enumerate(shares):
        counts = np.cumsum(source == number)
        assert np.abs(counts - share * drawn).max() < max(1, len(shares) - 1) + 1e-9  # rounding of share · drawn


def test_every_source_is_shuffled_anew_in_every_pass_of_its_own() -> None:
    sizes = [11, 9]
    drawn = MixedPasses(sizes, (0.75, 0.25), seed=2).between(0, 400)
    for number, first in enumerate((0, 11)):
        own = drawn[sources_of(drawn, sizes) == number] - first
        passes = [tuple(own[start : start + sizes[number]]) for start in range(0, 60, sizes[number])]
        full = [one for one in passes if len(one) == sizes[number]]
        assert all(sorted(one) == list(range(sizes[number])) for one in full) and len(set(full)) == len(full)


def test_the_order_is_a_function_of_seed_and_place_alone() -> None:
    row = MixedPasses([9, 40, 3], (0.2, 0.7, 0.1), seed=7)
    known = row.between(0, 900)
    for start, stop in ((0, 1), (1, 2), (5, 300), (299, 900), (650, 651)):
        assert np.array_equal(row.between(start, stop), known[start:stop])
    assert not np.array_equal(MixedPasses([9, 40, 3], (0.2, 0.7, 0.1), seed=8).between(0, 900), known)
    far = 10**12  # and nothing before a place has to be drawn
    assert np.array_equal(row.between(far, far + 50)[10:], row.between(far + 10, far + 50))


def test_a_period_of_batches_does_not_choose_a_source() -> None:
    """Of half and half, the draws of two devices have both sources: no device sees one of them alone."""
    shares = [BatchShare(batch_size=1, rank=rank, num_devices=2) for rank in range(2)]
    for share in shares:
        order = BatchOrder(MixedPasses([50, 50], (0.5, 0.5), seed=1), 8, share)
        seen = [number // 50 for batch in islice(order, 400) for number, _, _ in batch]
        assert 120 < sum(seen) < 280


def test_a_mixed_run_goes_on_in_the_middle_to_the_bit(tmp_path: Path, base: list[str], whole: Path) -> None:
    out = tmp_path / "out"
    train_here([*base, f"--out={out}", "--stop-at=17"])
    train_here([base[0], f"--out={out}", f"--resume={out / 'checkpoints' / 'last.ckpt'}", "--val-every=20"])
    assert losses(out) == losses(whole) and losses(out, "val_loss_code") == losses(whole, "val_loss_code")
    expected, found = (weights(one / "checkpoints" / "last.ckpt") for one in (whole, out))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_grown_and_in_another_batch_it_sees_the_same_sequences(tmp_path: Path, base: list[str], whole: Path) -> None:
    """Identity layers at step 20: the loss of step 21 is the small model's, as is that of other micro-batches."""
    source, grown = whole / "checkpoints" / "step-20.ckpt", tmp_path / "grown.ckpt"
    ckptgrow.depth(source, grown)
    for name, checkpoint, more in (("grown", grown, []), ("split", source, ["--batch-size=2", "--grad-accum=4"])):
        train_here([base[0], f"--out={tmp_path / name}", f"--resume={checkpoint}", *more])
        assert losses(tmp_path / name)[21] == pytest.approx(losses(whole)[21], abs=2e-6)  # float32 sums
    # twice the batch from step 20 on: every step sees the sequences of two steps
    train_here([base[0], f"--out={tmp_path / 'twice'}", f"--resume={source}", "--batch-size=8", "--lr=0"])
    train_here([base[0], f"--out={tmp_path / 'once'}", f"--resume={source}", "--lr=0"])
    once, twice = losses(tmp_path / "once"), losses(tmp_path / "twice")
    assert twice[21] == pytest.approx((once[21] + once[22]) / 2, abs=2e-6)
    last = torch.load(tmp_path / "twice" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["position"] == 20 * 8 + 20 * 16


def test_validation_is_by_source_and_mixed_by_their_shares(whole: Path, web: Path, code: Path) -> None:
    model, tree = load_model(whole / "checkpoints" / "last.ckpt")
    expected: list[float] = []
    for home in (web, code):
        tokens = np.fromfile(home / "val.bin", dtype=np.uint16).astype(np.int64)
        num = min(64, (len(tokens) - 1) // 16)  # --val-batches=2
        batch = torch.stack([torch.from_numpy(tokens[16 * number : 16 * number + 17]) for number in range(num)])
        with torch.no_grad():
            logits = model.eval()(input_ids=batch[:, :-1]).logits
        expected.append(float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())))
    row = next(row for row in rows(whole) if row["step"] == "40" and row["val_loss"])
    found = [float(row[f"val_loss_{name}"]) for name in ("data", "code")]
    assert found == pytest.approx(expected, abs=1e-5)  # float32 logits
    assert float(row["val_loss"]) == pytest.approx(0.7 * expected[0] + 0.3 * expected[1], abs=1e-5)
    told = tree["hyper_parameters"]["data"]["sources"]
    assert [(one["directory"], one["weight"]) for one in told] == [(str(web), 0.7), (str(code), 0.3)]


def test_the_header_tells_passes_of_every_source(
    tmp_path: Path, base: list[str], web: Path, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here([*base, f"--out={tmp_path}", "--stop-at=1", "--train-steps=40"])
    told = "".join(capsys.readouterr())
    for home, name, share in ((web, "data", 0.7), (code, "code", 0.3)):
        num = json.loads((home / "meta.json").read_text())["num_tokens"]["train"]
        passes = 1 * 8 * 16 * share / num  # steps · sequences · tokens
        assert f"{passes:.2g} passes over {num:,} training tokens of {name} ({share:g} of all)" in told


def test_a_plan_names_its_sources(tmp_path: Path, web: Path, code: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_file(tmp_path)
    shutil.copytree(web, tmp_path / "prose")
    stages = [{"steps": 3, "batch_size": 4, "seqlen": 16}, {"operator": "depth", "steps": 3, "train": {"export": True}}]
    plan = {"config": config.name, "data": {"prose": 3, str(code): 1}, "stages": stages}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    capsys.readouterr()
    assert run_command(["run", str(tmp_path / "plan.json"), f"--out={tmp_path / 'out'}", "--json"]) == 0
    last = torch.load(tmp_path / "out" / "stage-2" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (tmp_path / "out" / "stage-2" / "model" / "config.json").exists()
    assert not (tmp_path / "out" / "stage-1" / "model").exists()
    told = last["hyper_parameters"]["data"]["sources"]
    assert [(one["directory"], one["weight"]) for one in told] == [(str(tmp_path / "prose"), 0.75), (str(code), 0.25)]
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "data": {"nowhere": 1, str(code): 1}}))
    capsys.readouterr()
    assert run_command(["run", str(tmp_path / "plan.json"), f"--out={tmp_path / 'b'}", "--json"]) == 2
    assert "nowhere: no such directory" in capsys.readouterr().out


def test_mixtures_that_cannot_be_are_refused_in_one_line(
    tmp_path: Path, base: list[str], whole: Path, web: Path, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, other, short = tmp_path / "wide", tmp_path / "other", tmp_path / "short"
    for copy, old, new in (
        (wide, '"vocab_size": 256', '"vocab_size": 999'),
        (other, '"tokenizer": "bytes"', '"tokenizer": "gpt2"'),
    ):
        shutil.copytree(code, copy)
        (copy / "meta.json").write_text((copy / "meta.json").read_text().replace(old, new))
    (tmp_path / "few.txt").write_text("few")
    prepare([str(tmp_path / "few.txt")], short, val_fraction=0)
    cases = [
        (f"{web}:0.7,{tmp_path / 'none'}:0.3", ["none", "no such directory"]),
        (f"{web}:0.7,{code}:0", [f"{code}:0", "above 0"]),
        (f"{web}:0.7,{code}:-1", [f"{code}:-1", "above 0"]),
        (f"{web}:nan,{code}:1", [f"{web}:nan", "above 0"]),
        (f"{web}:0.7,{code}", [str(code), "DIR:WEIGHT"]),
        (f"{web}:0.7,{web}:0.3", [str(web), "twice"]),
        (f"{web}:0.7,{wide}:0.3", ["vocab_size 999", "expected 256"]),
        (f"{web}:0.7,{other}:0.3", ["tokenizer gpt2", "expected bytes"]),
        (f"{web}:0.7,{short}:0.3", ["short/train.bin", "expected at least 17"]),
    ]
    source = f"--resume={whole / 'checkpoints' / 'step-10.ckpt'}"
    capsys.readouterr()
    for text, words in cases:
        train_here([f"--out={tmp_path / 'out'}", *base[1:], f"--data={text}"], expected=2)
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    for text in (f"{web}:0.6,{code}:0.4", str(web)):  # another mixture than the run's
        train_here([f"--out={tmp_path / 'out'}", f"--data={text}", source], expected=2)
        assert "other training data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
