"""Saves checkpoints of a run at every so many steps and at its end; each file is whole or does not exist."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins import CheckpointIO

from ckptgrow.errors import CheckpointError, CkptgrowError
from ckptgrow.storage.files.atomic import appearing
from ckptgrow.train.run_directory import LAST, LastSaved, describe
from ckptgrow.train.stopwatch import Stopwatch

OWN_NAME = re.compile(r"step-(0|[1-9]\d*)\.ckpt")


class AtomicCheckpoints(CheckpointIO):
    """Writes each file beside its target, flushes it and renames it; an error is kept in `failure`, not raised.

    Only one process writes, and all must learn of an error before any of them stops. `loaded` makes the checkpoint to
    load where the file itself is not in Lightning's form.
    """

    def __init__(self, loaded: Callable[[], dict[str, Any]] | None = None) -> None:
        self._loaded = loaded
        self.failure: CkptgrowError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint; an error is kept in `failure`."""
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with appearing(target) as partial:
                torch.save(checkpoint, partial)
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError on a full disk
            free = shutil.disk_usage(target.parent).free / 2**30
            self.failure = CheckpointError(
                f"{target}: could not be written ({str(error).splitlines()[0][:120]}; {free:.2f} GiB free), expected "
                "room for a checkpoint; those that were written before are whole: make room and ⟦resume⟧ from the last"
            )

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint, without running code in the file."""
        if self._loaded is not None:
            return self._loaded()
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a file."""
        Path(path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Saving:
    """When checkpoints are written: every `every` steps, and after `seconds` without one (0: never), which is asked
    every `asked_every` steps. `keep` is how many of them stay, 0 for all.
    """

    every: int
    seconds: float
    asked_every: int
    keep: int


class Checkpoints(lightning.Callback):
    """`step-N.ckpt` whenever `saving` says, and at the end; `last.ckpt` is a second name of the newest.

    Those written last are kept, whether by this process or by one that it goes on from; files of any other name are
    never touched. `check` raises where the state is not worth keeping, `saved` describes what was saved at a step.
    """

    def __init__(
        self,
        directory: Path,
        saving: Saving,
        writer: AtomicCheckpoints,
        check: Callable[[lightning.Trainer], None],
        watch: Stopwatch,
        saved: Callable[[int], LastSaved] | None = None,
    ) -> None:
        self.directory, self.saving, self.writer, self.check = directory, saving, writer, check
        self._watch, self._described = watch, saved
        self._saved_step: int | None = None
        self._saved_at = 0.0  # seconds, by time.monotonic
        self._waits = False
        self._written: list[Path] = []

    @property
    def last(self) -> Path:
        """The path of the newest checkpoint."""
        return self.directory / LAST

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remembers the step that the run goes on from, which is not saved again, and the checkpoints that exist."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._written = checkpoints_in(self.directory)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where a step that is due has ended: behind its validation, or a run that goes on would lack that."""
        if trainer.global_step != self._saved_step and self._is_due(trainer):
            self._waits = will_validate(trainer)
            if not self._waits:
                self.save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Saves what waited for it."""
        if self._waits:
            self._waits = False
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Saves the last step."""
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Saves the state after the step that has ended; every process must call it.

        Raises what `check` raises, and CheckpointError where the file could not be written.
        """
        if trainer.global_step == self._saved_step:
            return
        self.check(trainer)
        self._watch.pause()
        path = self.directory / f"step-{trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        failed = torch.tensor(float(self.writer.failure is not None), device=trainer.strategy.root_device)
        if float(trainer.strategy.reduce(failed, reduce_op="max")):
            raise self.writer.failure or CheckpointError(f"{path}: could not be written")
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            self._link(path)
            if self._described is not None:
                describe(self.directory.parent, self._described(trainer.global_step))
            self._forget(path)
        self._watch.resume()

    def _is_due(self, trainer: lightning.Trainer) -> bool:
        """By the step, or by the first process's clock."""
        if trainer.global_step % self.saving.every == 0:
            return True
        if not self.saving.seconds or trainer.global_step % self.saving.asked_every:
            return False
        is_late = time.monotonic() - self._saved_at >= self.saving.seconds
        return bool(trainer.strategy.broadcast(is_late)) if trainer.world_size > 1 else is_late

    def _link(self, path: Path) -> None:
        with appearing(self.last) as partial:
            try:
                partial.hardlink_to(path)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, partial)

    def _forget(self, newest: Path) -> None:
        self._written = [*(one for one in self._written if one != newest), newest]
        while self.saving.keep and len(self._written) > self.saving.keep:
            self._written.pop(0).unlink(missing_ok=True)


def will_validate(trainer: lightning.Trainer) -> bool:
    """Whether a validation follows the batch that ends now; Lightning counts batches for it, over all epochs, and has
    one before it stops.
    """
    every = trainer.val_check_batch or 1
    is_due = trainer.should_stop or (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return bool(trainer.enable_validation) and is_due


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints of a run in a directory, the newest last; those of the same time are sorted by their steps."""
    steps = {one: OWN_NAME.fullmatch(one.name) for one in directory.glob("step-*.ckpt") if not one.is_symlink()}
    found = [(one.stat().st_mtime_ns, int(match[1]), one) for one, match in steps.items() if match and one.is_file()]
    return [one for _, _, one in sorted(found)]
