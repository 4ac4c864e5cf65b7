"""`metrics.csv`: one row for each logged step and each validation, in one file even if a run was interrupted."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from ckptgrow.errors import DataError, listing
from ckptgrow.train.run_directory import METRICS

COLUMNS: tuple[str, ...] = (
    "step",
    "tokens",
    "loss",
    "perplexity",
    "bits",
    "lr",
    "grad_norm",
    "grad_norm_local",
    "critical_batch_size",
    "batch_size",
    "seqlen",
    "tokens_per_second",
    "seconds_per_step",
    "memory_gib",
    "mfu",
    "val_loss",
    "val_perplexity",
    "val_bits",
)
ADDED = ("mfu",)  # by later versions: a run of an earlier one goes on without them in its rows
OLDEST = tuple(name for name in COLUMNS if name not in ADDED)


class MetricsFile(Logger):
    """Appends rows to the file; a run that goes on from `tokens` first removes later rows, which it will make again.

    `losses` are its columns besides `COLUMNS`: before the last one, whose absence tells a row that was cut short.
    """

    def __init__(self, directory: Path, tokens: int, losses: Sequence[str] = ()) -> None:
        super().__init__()
        self.path = directory / METRICS
        self._tokens = tokens
        self._columns = (*COLUMNS[:-1], *losses, COLUMNS[-1])
        self._is_open = False

    @property
    def name(self) -> str:
        """The logger's name, for Lightning."""
        return "metrics"

    @property
    def version(self) -> int:
        """The logger's version, for Lightning; always 0."""
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Writes nothing: hyper-parameters are in the checkpoints."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends a row; the first one makes the file."""
        if not self._is_open:
            self._begin()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow({"step": step, **metrics})

    def _begin(self) -> None:
        self._is_open = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        known = _rows(self.path, self._columns) if self._tokens else []
        kept = [row for row in known if int(row["tokens"]) <= self._tokens]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(self.path)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and not set(OLDEST) <= set(rows[0]) <= set(columns):
        raise DataError(f"{path}: has columns {listing(rows[0])}, expected those of a run of ckptgrow; move it away")
    return [row for row in rows if (row["tokens"] or "").isdigit() and row["val_bits"] is not None]  # a row cut short
