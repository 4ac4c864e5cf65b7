"""What must be the same however a run is split, interrupted or shortened: validation, batches, peaks, what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.choices import ScheduleKind, TrainRecipeName, words_of
from ckptgrow.cli import run as run_command
from ckptgrow.data.preparation import prepare
from ckptgrow.errors import RequestError
from ckptgrow.planning.rates_by_size import lr_for_size, lr_of_gpt3
from ckptgrow.train.growing_batches import GrowingBatches
from ckptgrow.train.remarks import remarks
from ckptgrow.train.saving import checkpoints_in
from ckptgrow.train.settings import TrainSettings, settings_for
from ckptgrow.train.token_sequences import Sequences
from ckptgrow.train.train_recipes import RECIPES
from ckptgrow.train.validation import SharedSequences
from tests.helpers.lightning_files import load_model
from tests.helpers.training_runs import CONFIG, config_file, losses, tiny_data, train_here

WHERE = {"data": Path("data"), "out": Path("out")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(data: Path) -> Path:
    return config_file(data.parent)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    path = tmp_path_factory.mktemp("tokens") / "val.bin"
    np.arange(401, dtype=np.uint16).tofile(path)
    return Sequences(path, "uint16", 4)


@given(num=st.integers(1, 120), num_devices=st.integers(1, 9))
def test_devices_validate_on_the_first_sequences_each_once_in_as_many_batches(
    tokens: Sequences, num: int, num_devices: int
) -> None:
    shares = [SharedSequences(tokens, num, rank, num_devices) for rank in range(num_devices)]
    assert len({len(share) for share in shares}) == 1
    items = [share[place] for share in shares for place in range(len(share))]
    counted = sorted(int(sequence[0]) // 4 for sequence, weight in items if weight == 1.0)
    assert counted == list(range(min(num, 100))) and {weight for _, weight in items} <= {0.0, 1.0}


def validated(data: Path, checkpoint: Path, num: int) -> float:
    """The mean loss by token of the first sequences, one at a time in float64."""
    tokens = torch.from_numpy(np.fromfile(data / "val.bin", dtype=np.uint16).astype(np.int64))
    model = load_model(checkpoint)[0].double()
    found = []
    for start in range(0, 16 * min(num, (len(tokens) - 1) // 16), 16):
        with torch.no_grad():
            logits = model(input_ids=tokens[None, start : start + 16]).logits
        found.append(float(torch.nn.functional.cross_entropy(logits[0], tokens[start + 1 : start + 17])))
    return float(np.mean(found))


@pytest.mark.parametrize(("asked", "num"), [("--val-batches=50", 1600), ("--val-sequences=5", 5)])
def test_the_validation_set_is_the_same_whatever_the_batch_is(
    tmp_path: Path, data: Path, config: Path, asked: str, num: int
) -> None:
    found = []
    for number, (batch, accumulation) in enumerate([(1, 1), (4, 1), (2, 3), (7, 1)]):
        out = tmp_path / str(number)
        sizes = [f"--batch-size={batch}", f"--grad-accum={accumulation}", "--train-steps=1", "--val-every=1"]
        more = [f"--data={data}", f"--config={config}", f"--out={out}", "--lr=1e-12", "--warmup-steps=0"]
        train_here([*more, *sizes, asked])
        found.append(losses(out, "val_loss")[1])
        expected = validated(data, out / "checkpoints" / "last.ckpt", num)
        assert found[-1] == pytest.approx(expected, rel=1e-6)
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("recipe", words_of(TrainRecipeName))
@pytest.mark.parametrize("kind", words_of(ScheduleKind))
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 900, 3000, 100_000])
def test_every_run_rises_to_its_peak_unless_something_else_is_asked_for(kind: str, steps: int, recipe: str) -> None:
    settings = settings_for({**WHERE, "train_steps": steps, "schedule": kind, "recipe": recipe}, {})
    expected = min(1000, steps // 3) if recipe == "staged-training" else min(2000, steps // 20)
    assert settings.warmup_steps == expected
    course = settings.schedule_after(None)
    assert max(course(step) for step in range(min(steps, 3000))) == 1.0
    assert remarks(settings, {}, {}) == []


def test_warm_up_may_be_a_share_of_the_steps() -> None:
    settings = settings_for({**WHERE, "train_steps": 400, "warmup_share": 0.1}, {})
    assert settings.warmup_steps == 40 and settings.schedule_after(None)(38) < settings.schedule_after(None)(39) == 1.0


def test_a_runs_defaults_are_those_of_its_recipe() -> None:
    """The figures as the recipes' sources have them, typed again."""
    modern, paper = (settings_for({**WHERE, "recipe": name}, {}) for name in ("modern", "staged-training"))
    told = ("schedule", "weight_decay", "betas", "eps", "grad_clip", "min_lr_ratio")
    assert [getattr(modern, name) for name in told] == ["wsd", 0.1, (0.9, 0.95), 1e-8, 1.0, 0.0]
    assert [getattr(paper, name) for name in told] == ["linear", 0.01, (0.9, 0.98), 1e-6, 0.0, 0.0]
    assert settings_for(WHERE, {}) == modern
    assert settings_for({**WHERE, "recipe": "staged-training", "grad_clip": 0.5}, {}).grad_clip == 0.5


def test_the_help_tells_the_defaults_of_both_recipes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    assert run_command(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    modern, paper = RECIPES["modern"], RECIPES["staged-training"]
    options = {f"--{text.split()[0]}": text for text in shown.split("\n  --")[1:]}
    for option, value in {
        "--schedule": modern.schedule,
        "--weight-decay": modern.weight_decay,
        "--adam-beta1": modern.betas[0],
        "--adam-beta2": modern.betas[1],
        "--adam-epsilon": "1e-8",
        "--grad-clip": f"{modern.grad_clip:g}",
        "--min-lr-ratio": f"{modern.min_lr_ratio:g}",
        "--warmup-steps": f"{modern.warmup_share} of all, at most {modern.most_warmup}",
        "--dropout": f"{modern.dropout:g}",
    }.items():
        assert f"[default: {value}" in options[option], option
    for words in (f"schedule {paper.schedule}", f"weight decay {paper.weight_decay}", f"β₂ {paper.betas[1]}", "1e-6"):
        assert words in options["--recipe"]


def test_a_new_model_has_the_dropout_that_is_asked_for_and_one_that_goes_on_keeps_its_own(
    tmp_path: Path, data: Path
) -> None:
    bare = {name: value for name, value in CONFIG.items() if "pdrop" not in name}

    def dropout(out: str) -> set[float]:
        tree = torch.load(tmp_path / out / "checkpoints" / "last.ckpt", weights_only=True)
        config = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, **tree["hyper_parameters"]["config"]}
        return {config[name] for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}

    (tmp_path / "bare.json").write_text(json.dumps(bare))
    (tmp_path / "said.json").write_text(
        json.dumps({**bare, **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.3)})
    )
    common = [f"--data={data}", "--train-steps=1", "--warmup-steps=0", "--batch-size=1"]
    for name, options in {
        "a": ["--config=bare.json"],
        "b": ["--config=said.json"],
        "c": ["--config=said.json", "--dropout=0.2"],
        "d": ["--config=bare.json", "--recipe=staged-training"],
    }.items():
        there = [
            option.replace("=bare", f"={tmp_path}/bare").replace("=said", f"={tmp_path}/said") for option in options
        ]
        train_here([*common, *there, f"--out={tmp_path / name}"])
    assert [dropout(name) for name in "abcd"] == [{0.0}, {0.3}, {0.2}, {0.1}]
    again = [
        f"--data={data}",
        f"--resume={tmp_path / 'b' / 'checkpoints' / 'last.ckpt'}",
        "--train-steps=2",
        "--warmup-steps=0",
    ]
    train_here([*again, f"--out={tmp_path / 'e'}"])
    train_here([*again, f"--out={tmp_path / 'f'}", "--dropout=0"])
    assert [dropout(name) for name in "ef"] == [{0.3}, {0.0}]


def test_rises_that_a_run_is_too_short_for_are_refused_and_those_it_inherits_are_told(
    tmp_path: Path, data: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [f"--data={data}", "--batch-size=1", "--save-every=4"]
    new = [*common, f"--config={config}", f"--out={tmp_path / 'a'}"]
    train_here([*new, "--train-steps=8", "--warmup-steps=9"], expected=2)
    assert "--warmup-steps 9: the run has 8 steps" in capsys.readouterr().err and not (tmp_path / "a").exists()
    train_here([*new, "--train-steps=8", "--warmup-steps=8"])
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    assert max(losses(tmp_path / "a", "lr").values()) == pytest.approx(3e-3)
    going = ["train", *common, "--seqlen=16", "--accelerator=cpu", f"--resume={last.with_name('step-4.ckpt')}"]
    assert run_command([*going, f"--out={tmp_path / 'b'}", "--rewarm=5"]) == 2
    assert "--rewarm 5: the run has 4 steps from step 4 on" in capsys.readouterr().err
    assert run_command([*going, f"--out={tmp_path / 'b'}", "--train-steps=6"]) == 0
    assert "warm-up: 8 steps, as the checkpoint's run had, are more than this run's 6" in capsys.readouterr().out
    ckptgrow.width(last, tmp_path / "grown.ckpt", noise=0, request=StateRequest(step=4, rewarm=50))
    grown = ["train", *common, "--seqlen=16", "--accelerator=cpu", f"--resume={tmp_path / 'grown.ckpt'}"]
    assert run_command([*grown, f"--out={tmp_path / 'c'}"]) == 0
    assert "re-warm-up: 50 steps from step 4 on, as the checkpoint says, end after this run" in capsys.readouterr().out


@given(st.integers(1, 48), st.integers(1, 12), st.integers(1, 8), st.integers(1, 8))
def test_on_other_devices_a_step_keeps_its_sequences(batch: int, accumulation: int, before: int, now: int) -> None:
    old = TrainSettings(**WHERE, batch_size=batch, grad_accum=accumulation, devices=before)
    whole = batch * accumulation * before
    if whole % now and now != before:
        with pytest.raises(RequestError, match=f"cannot share the {whole} sequences"):
            settings_for({**WHERE, "devices": now}, old.carried())
        return
    found = settings_for({**WHERE, "devices": now}, old.carried())
    assert found.batch_size * found.grad_accum * now == whole and found.batch_size <= batch
    divisors = [one for one in range(1, batch + 1) if whole % (one * now) == 0]
    assert found.batch_size == max(divisors)
    said = remarks(found, old.carried(), {})
    assert (said == []) == ((found.batch_size, found.grad_accum) == (batch, accumulation))
    asked = settings_for({**WHERE, "devices": now, "batch_size": batch + 1}, old.carried())
    assert asked.batch_size == batch + 1 and asked.grad_accum == accumulation
    if asked.whole_batch != whole:
        assert f"where the checkpoint's run had {whole:,}" in remarks(asked, old.carried(), {})[0]


def test_a_run_that_goes_on_with_another_accumulation_sees_the_same_data(
    tmp_path: Path, data: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on one device after two: the checkpoint says that it had two, and what follows is what one with all has."""
    base = [f"--data={data}", "--train-steps=12", "--save-every=6", "--val-every=100"]
    train_here([*base, f"--config={config}", f"--out={tmp_path / 'a'}", "--batch-size=4", "--grad-accum=2"])
    tree = torch.load(tmp_path / "a" / "checkpoints" / "step-6.ckpt", weights_only=True)
    tree["hyper_parameters"]["run"] |= {"batch_size": 4, "grad_accum": 1}
    tree["loops"]["fit_loop"] |= {
        "epoch_loop.batch_progress": {
            name: {key: count // 2 for key, count in counts.items()} if isinstance(counts, dict) else counts
            for name, counts in tree["loops"]["fit_loop"]["epoch_loop.batch_progress"].items()
        }
    }
    torch.save(tree, tmp_path / "two.ckpt")  # of 4 sequences on each of two devices
    capsys.readouterr()
    train_here([*base, f"--resume={tmp_path / 'two.ckpt'}", f"--out={tmp_path / 'b'}"])
    assert "batch: 8 sequences a step as before, now 4 × 2 micro-batches on 1 devices" in capsys.readouterr().out
    expected = {step: loss for step, loss in losses(tmp_path / "a").items() if step > 6}
    assert losses(tmp_path / "b") == pytest.approx(expected, abs=1e-6)


def test_sizes_that_never_stop_growing_are_told() -> None:
    settings = TrainSettings(
        **WHERE, train_steps=10, warmup_steps=1, growing=GrowingBatches(10 * 32 * 512 + 1, 10 * 32 * 512)
    )
    (said,) = remarks(settings, {"warmup_steps": 1}, {})
    assert said.startswith("batch size: grows over 163,841 tokens, and the run has 163,840 at most")


def test_the_newest_checkpoints_are_kept_over_all_interruptions_and_nothing_else_is_touched(
    tmp_path: Path, data: Path, config: Path
) -> None:
    out = tmp_path / "run"
    saved = out / "checkpoints"
    common = [f"--data={data}", f"--out={out}", "--batch-size=1", "--save-every=2", "--keep=2", "--warmup-steps=1"]

    def names() -> set[str]:
        return {one.name for one in saved.iterdir()}

    train_here([*common, f"--config={config}", "--train-steps=8"])
    assert names() == {"step-6.ckpt", "step-8.ckpt", "last.ckpt"}
    others = {"step-6-best.ckpt", "step-04.ckpt", "step-x.ckpt", "step-2.ckpt.bak", "best.ckpt"}
    for name in others:
        (saved / name).write_bytes(b"mine")
    (saved / "step-1.ckpt").symlink_to(saved / "best.ckpt")
    (saved / "step-3.ckpt").mkdir()
    kept = {*others, "step-1.ckpt", "step-3.ckpt", "last.ckpt"}
    for steps in (12, 16):
        train_here([*common, f"--resume={saved / 'last.ckpt'}", f"--train-steps={steps}"])
        assert names() == {*kept, f"step-{steps - 2}.ckpt", f"step-{steps}.ckpt"}
    # a run that goes back: what lies ahead of it is older than what it writes
    train_here([*common, f"--resume={saved / 'step-14.ckpt'}", "--step=3", "--train-steps=8", "--warmup-steps=0"])
    assert names() == {*kept, "step-6.ckpt", "step-8.ckpt"}
    assert [one.name for one in checkpoints_in(saved)] == ["step-6.ckpt", "step-8.ckpt"]


@pytest.mark.parametrize("size", [0, 1.6e9, 7e10, 1e12])
def test_the_formula_of_small_models_is_refused_where_it_was_not_found(size: float) -> None:
    with pytest.raises(RequestError, match=r"up to 1\.5e\+09 parameters"):
        lr_for_size(size)


def test_rates_of_gpt3s_models_are_its_tables_and_fall_between() -> None:
    """Brown et al., table 2.1, sizes without embeddings: 12 · layers · width²."""
    sizes = np.geomspace(1e6, 1.7e11, 200)
    rates = np.array([lr_of_gpt3(size) for size in sizes])
    assert (np.diff(rates) <= 0).all() and rates[0] == pytest.approx(6e-4)
    for layers, width, rate in ((12, 768, 6e-4), (24, 2048, 2e-4), (32, 4096, 1.2e-4), (96, 12288, 6e-5)):
        assert lr_of_gpt3(12 * layers * width**2) == pytest.approx(rate)
    with pytest.raises(RequestError, match="the largest model of the rule gpt3"):
        lr_of_gpt3(2e11)


def test_without_validation_data_nothing_is_validated_and_nothing_is_said(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "text.txt"
    source.write_text("\n".join(f"line {number} of some text" for number in range(30)))
    prepare([str(source)], tmp_path / "data", val_fraction=0.0)
    capsys.readouterr()
    more = ["--train-steps=4", "--batch-size=1", "--val-every=1"]
    train_here([f"--data={tmp_path / 'data'}", f"--config={config}", f"--out={tmp_path / 'out'}", *more])
    assert capsys.readouterr().err == "" and losses(tmp_path / "out", "val_loss") == {}
