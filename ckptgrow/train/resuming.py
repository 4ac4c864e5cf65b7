"""What a run goes on from: a checkpoint of `ckptgrow train` or any Lightning file with a config, grown or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ckptgrow import __version__
from ckptgrow.checkpoints.formats import read_checkpoint
from ckptgrow.checkpoints.loops import with_step
from ckptgrow.errors import RequestError
from ckptgrow.train.order import Place
from ckptgrow.train.settings import RUN

POSITION, TOKENS = "position", "tokens_seen"
GROWTH = "ckptgrow"
BATCHES = "epoch_loop.batch_progress"


@dataclass(frozen=True)
class Resumed:
    """A checkpoint's parts that a run needs before Lightning loads the rest.

    `arguments`: its hyper-parameters. `optimizer`: the file's tree where its groups are taken over, else None.
    `growth`: the record of growths. `lr`: the peak that its groups were made with. `step`: the schedule's step to go
    on from, `moved` where that is another than the file's.
    """

    path: Path
    arguments: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None
    place: Place
    growth: dict[str, Any] = field(default_factory=dict[str, Any])
    lr: float = 1.0
    step: int = 0
    moved: bool = False
    reset: tuple[str, ...] = ()

    def prepare(self, checkpoint: dict[str, Any], grad_accum: int, *, fused: bool | None) -> None:
        """Changes a loaded checkpoint for this run: parts that begin anew, another step, another accumulation."""
        if self.optimizer is None:
            checkpoint["optimizer_states"] = []
        if "schedule" in self.reset:
            checkpoint["lr_schedulers"] = []
        for key in ("optimizer_states", "lr_schedulers"):
            checkpoint.setdefault(key, [])
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                group.update(fused=fused, foreach=None)
        loops = checkpoint.get("loops")
        if loops is not None:
            checkpoint["loops"] = _with_accumulation(loops, self.arguments.get(RUN, {}).get("grad_accum"), grad_accum)
        if self.moved:
            self._move(checkpoint)

    def _move(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["global_step"] = self.step
        checkpoint["loops"] = with_step(checkpoint.get("loops"), self.step)
        checkpoint["lr_schedulers"] = [
            {**one, "last_epoch": self.step, "_step_count": self.step + 1} for one in checkpoint["lr_schedulers"]
        ]


def resumed_from(
    path: Path, reset: Collection[str] = (), step: int | None = None, rewarm: int = 0
) -> tuple[Resumed, Mapping[str, Any] | None]:
    """Reads a checkpoint, and the config in it (None where there is none).

    `reset` names parts to begin anew, `step` the schedule's step to go on from, `rewarm` the steps over which the
    learning rate rises again from there.

    Raises CheckpointError for a file that is damaged, RequestError for one of another kind.
    """
    read = read_checkpoint(path)  # names what is wrong with the file, and never runs its code
    if read.kind != "lightning":
        raise RequestError(
            f"--resume {path}: is a Hugging Face directory, expected a Lightning checkpoint; first: ckptgrow convert "
            f"{path} OUT.ckpt --to lightning"
        )
    tree: dict[str, Any] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    arguments = dict(tree.get("hyper_parameters") or {})
    stored_step = int(tree.get("global_step") or 0)
    start = step if step is not None else 0 if "schedule" in reset else stored_step
    growth = dict(tree.get(GROWTH) or {})
    if growth and start != stored_step:
        growth["rewarm"] = None  # it was for where the schedule was
    if rewarm:
        growth = {"version": __version__, "history": [], **growth, "rewarm": {"start": start, "steps": rewarm}}
    has_groups = bool(tree.get("optimizer_states")) and "optimizer" not in reset
    place = Place() if "data" in reset else Place(int(tree.get(POSITION, 0)), int(tree.get(TOKENS, 0)))
    return (
        Resumed(
            path=path,
            arguments=arguments,
            optimizer=tree if has_groups else None,
            place=place,
            growth=growth,
            lr=_peak(arguments, tree),
            step=start,
            moved=start != stored_step,
            reset=tuple(reset),
        ),
        read.config,
    )


def _peak(arguments: Mapping[str, Any], tree: Mapping[str, Any]) -> float:
    """The peak that the run was given; of other scripts' checkpoints, the largest of the groups'."""
    if "lr" in arguments:
        return float(arguments["lr"])
    states = tree.get("optimizer_states") or [{"param_groups": []}]
    rates = [float(group.get("initial_lr", group["lr"])) for group in states[0]["param_groups"]]
    return max(rates, default=0.0)


def _with_accumulation(loops: Any, old: int | None, new: int) -> Any:
    """Lightning steps where its count of micro-batches is a multiple of the accumulation: recounted for another."""
    if old is None or old == new or BATCHES not in loops.get("fit_loop", {}):
        return loops
    batches = {
        name: _recounted(counts, old, new) if isinstance(counts, dict) else counts
        for name, counts in loops["fit_loop"][BATCHES].items()
    }
    return {**loops, "fit_loop": {**loops["fit_loop"], BATCHES: batches}}


def _recounted(counts: Mapping[str, int], old: int, new: int) -> dict[str, int]:
    ready = counts["ready"] // old * new
    return {name: ready - (counts["ready"] - count) for name, count in counts.items()}
