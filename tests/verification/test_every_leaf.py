"""Nothing in a grown checkpoint may be changed, removed or added unseen: every leaf of real checkpoints is tried."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import CkptgrowError
from tests.helpers.gpt2 import perturbed_gpt2, token_batches
from tests.helpers.leaves import Keys, Tampering, tamperings

TINY: dict[str, Any] = {"n_embd": 4, "n_head": 1, "n_inner": 6, "n_layer": 2, "n_positions": 16}
# facts of the growth's own process that no one can derive from what it wrote
UNKNOWABLE = ("torch", "seed")
EVERY = pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])


class Averaging(lightning.LightningModule):
    """A module as users write it: two groups, warm-up and cosine, an average of its weights."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = perturbed_gpt2(**TINY).train()
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.model(input_ids=batch, labels=batch).loss
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ema.update_parameters(self.model)

    def configure_optimizers(self) -> Any:
        decayed = [one for one in self.model.parameters() if one.dim() > 1]
        others = [one for one in self.model.parameters() if one.dim() < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=2e-3)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [3])
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@pytest.fixture(scope="module")
def lightnings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Lightning run's checkpoint, with a scaler's state as fp16 leaves it."""
    directory = tmp_path_factory.mktemp("lightning")
    config = perturbed_gpt2(**TINY).config.to_dict()
    saving = ModelCheckpoint(directory, monitor="loss", every_n_train_steps=2)
    runner = lightning.Trainer(
        max_steps=6,
        accelerator="cpu",
        precision="64-true",
        callbacks=[saving, LearningRateMonitor()],
        logger=CSVLogger(directory),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rows: Any = torch.utils.data.DataLoader(torch.cat(token_batches(8)), batch_size=2)  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.fit(Averaging(config), rows)
    path = directory / "small.ckpt"
    runner.save_checkpoint(path)
    tree = torch.load(path, weights_only=False)
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    torch.save({**tree, "MixedPrecision": {**scaler, "_growth_tracker": 5}}, path)
    return path


GROWTHS: dict[str, Callable[[Path, Path], Any]] = {
    "width": ckptgrow.width,
    "width mup moved": lambda small, grown: ckptgrow.width(
        small, grown, how="tile", noise=0, request=StateRequest(lr_rule="mup", step=2, rewarm=3)
    ),
    "depth": lambda small, grown: ckptgrow.depth(small, grown, place="append"),
}


def passes(small: Path, grown: Path) -> bool:
    """Whether verify finds nothing; a refusal finds something, a crash is a failure of the test."""
    try:
        return ckptgrow.verify(small, grown, settings=Settings(batches=1)).passed
    except CkptgrowError:
        return False


def is_weight_or_moment(keys: Keys, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or not value.shape:
        return False
    return keys[0] == "state_dict" or (keys[0] == "optimizer_states" and keys[2] == "state")


def is_moment(keys: Keys, value: Any) -> bool:
    return isinstance(value, torch.Tensor) and bool(value.shape)


def is_unknowable(tampering: Tampering) -> bool:
    return tampering.name.startswith("changed") and any(f"'{name}'" in tampering.name for name in UNKNOWABLE)


@pytest.mark.sampled(1)
@EVERY
@pytest.mark.parametrize("growth", GROWTHS)
def test_no_leaf_of_a_lightning_checkpoint_can_be_tampered_with(
    lightnings: Path, tmp_path: Path, growth: str, every: int
) -> None:
    grown, tampered = tmp_path / "grown.ckpt", tmp_path / "tampered.ckpt"
    GROWTHS[growth](lightnings, grown)
    report = ckptgrow.verify(lightnings, grown)
    assert report.passed, report.sentences
    tree = torch.load(grown, weights_only=False)
    missed: list[str] = []
    for one in list(tamperings(tree, is_weight_or_moment))[len(growth) % every :: every]:
        torch.save(one.of(tree), tampered)
        if not is_unknowable(one) and passes(lightnings, tampered):
            missed.append(one.name)
    assert not missed, missed


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self) -> None:
        self.rows = torch.cat(token_batches(16))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Trainer's checkpoint with what lies beside one: a best checkpoint, a tokenizer's file, a model card."""
    directory = tmp_path_factory.mktemp("trainer")
    model: GPT2LMHeadModel = perturbed_gpt2(**TINY).float().train()
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=2e-3,
        weight_decay=0.1,
        warmup_steps=2,
        logging_steps=1,
        save_steps=4,
        eval_steps=2,
        eval_strategy="steps",
        load_best_model_at_end=True,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Trainer(model=model, args=arguments, train_dataset=Rows(), eval_dataset=Rows()).train()
    path = directory / "checkpoint-4"
    (path / "tokenizer.json").write_text('{"version": "1.0"}')
    (path / "README.md").write_text("a model card")
    return path


@pytest.mark.sampled(1)
@EVERY
def test_no_part_of_a_trainers_directory_can_be_tampered_with(trainers: Path, tmp_path: Path, every: int) -> None:
    grown, tampered = tmp_path / "grown", tmp_path / "tampered"
    ckptgrow.width(trainers, grown)
    report = ckptgrow.verify(trainers, grown)
    assert report.passed, report.sentences
    missed: list[str] = []

    def tried(name: str, change: Callable[[Path], object]) -> None:
        shutil.copytree(grown, tampered)
        change(tampered)
        if passes(trainers, tampered):
            missed.append(name)
        shutil.rmtree(tampered)

    tried("a file more", lambda path: (path / "notes.txt").write_text("more"))
    tried("a directory more", lambda path: (path / "more").mkdir())
    for file in sorted(grown.iterdir()):
        name = file.name
        tried(f"{name} removed", lambda path, name=name: (path / name).unlink())
        if name == "model.safetensors":
            continue  # numbers are judged by the tolerance of their dtype
        if name.endswith(".json"):
            tree = json.loads(file.read_text())
            for one in list(tamperings(tree))[::every]:
                if not is_unknowable(one):
                    text = json.dumps(one.of(tree))
                    tried(f"{name}: {one.name}", lambda path, name=name, text=text: (path / name).write_text(text))
        elif name in ("optimizer.pt", "scheduler.pt"):
            tree = torch.load(file, weights_only=False)
            for one in list(tamperings(tree, is_moment))[::every]:
                changed = one.of(tree)
                tried(f"{name}: {one.name}", lambda path, name=name, changed=changed: torch.save(changed, path / name))
        else:
            tried(f"{name} damaged", lambda path, name=name: _damage(path / name))
    assert not missed, missed


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_trees_walk_sees_every_kind_of_change() -> None:
    tree = {"a": 1, "b": [1.5, True], "c": (None, "d"), "e": torch.tensor(2)}
    before = copy.deepcopy(tree)
    names = [one.name for one in tamperings(tree)]
    assert len(names) == len(set(names)) == 14 and tree == before
