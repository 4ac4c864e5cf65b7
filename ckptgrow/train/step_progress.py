"""What a run reports after each step, from the run itself or from its log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run after a step; losses are in nats, and None until the first is known."""

    step: int
    total: int
    tokens: int
    lr: float
    loss: float | None
    val_loss: float | None
    val_step: int | None = None  # the step after which val_loss was measured, where that is known
    tokens_per_second: float | None
    is_logged: bool  # whether this step's values are in the log, as every so many steps' are, and the last one's


Report = Callable[[Progress], None]


def validated_in_words(name: str, loss: float | None, measured: int | None, step: int) -> str:
    """A validation's loss, with its step where that is an earlier one."""
    if loss is None:
        return ""
    return f"{name} {loss:.4f}" + (f" (of step {measured:,})" if measured not in (None, step) else "")


def newest_progress(rows: Sequence[Mapping[str, str]], total: int) -> Progress | None:
    """What a log's rows say of a run in other processes."""
    trained = [row for row in rows if row["loss"]]
    if not trained:
        return None
    row = trained[-1]
    return Progress(
        step=int(row["step"]),
        total=total,
        tokens=int(row["tokens"]),
        lr=float(row["lr"]),
        loss=float(row["loss"]),
        val_loss=newest(rows, "val_loss"),
        val_step=next((int(row["step"]) for row in reversed(rows) if row["val_loss"]), None),
        tokens_per_second=float(row["tokens_per_second"]),
        is_logged=True,
    )


def newest(rows: Sequence[Mapping[str, str]], column: str) -> float | None:
    """The last value of a column in a log's rows."""
    return next((float(row[column]) for row in reversed(rows) if row[column]), None)
