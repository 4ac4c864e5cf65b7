"""What a run goes on from: a checkpoint of this trainer, or any other that growth reads, grown or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from ckptgrow.errors import RequestError
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.formats.loops import with_step
from ckptgrow.state.train_schedule import NEW_RISE, NewRise
from ckptgrow.train.adoption import MODULE, Adopted, adopted
from ckptgrow.train.averaging import AVERAGE
from ckptgrow.train.order import DataPosition
from ckptgrow.train.settings import RUN
from ckptgrow.train.slope_stop import reached_in
from ckptgrow.version import __version__

POSITION, TOKENS = "position", "tokens_seen"
GROWTH = "ckptgrow"
BATCHES = "epoch_loop.batch_progress"
CLOCK = ("last_epoch", "_step_count")


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A checkpoint's parts that a run needs before Lightning loads the rest.

    `arguments`: its hyper-parameters. `optimizer`: the file's tree where its groups are taken over, else None.
    `growth`: the record of growths, and of the rises of rates after the last one; `is_newly_grown` where nothing has
    been trained since. `lr`: the peak that its groups were
    made with. `step`: the schedule's step to go on from, `moved` where that is another than the file's. `adopted` is a
    checkpoint of another trainer, or in another form than this command's, whose `optimizer` is then in this one's.
    `slope_reached` and `loss_reached` are the step at which the slope or the loss of its validations ended the run.
    """

    path: Path
    arguments: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None
    place: DataPosition
    growth: dict[str, Any] = field(default_factory=dict[str, Any])
    is_newly_grown: bool = False
    lr: float = 1.0
    step: int = 0
    moved: bool = False
    reset: tuple[str, ...] = ()
    slope_reached: int | None = None
    loss_reached: int | None = None
    adopted: Adopted | None = None

    def loaded(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The checkpoint that Lightning loads instead of the file; `weights` are those that the module has already."""
        assert self.adopted is not None
        return self.adopted.tree({name: one.detach().clone() for name, one in weights.items()}, self.step)

    def prepare(self, checkpoint: dict[str, Any], grad_accum: int, implementation: Mapping[str, bool | None]) -> None:
        """Changes a loaded checkpoint in place for this run: parts that begin anew, another step or accumulation, and
        AdamW's `implementation`: its options "fused" and "foreach".
        """
        if self.optimizer is None:
            checkpoint["optimizer_states"] = []
        if "schedule" in self.reset:
            checkpoint["lr_schedulers"] = []
        for key in ("optimizer_states", "lr_schedulers"):
            checkpoint.setdefault(key, [])
        if self.optimizer is None:  # its groups are the new run's, and so are their rates
            clocks = [{key: one[key] for key in CLOCK if key in one} for one in checkpoint["lr_schedulers"]]
            checkpoint["lr_schedulers"] = [{**clock, "lr_lambdas": []} for clock in clocks]
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                if "betas" in group:  # Muon has no such forms
                    group.update(implementation)
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


def resumed_from(path: Path, given: Mapping[str, Any]) -> tuple[Resumed, Mapping[str, Any] | None]:
    """Reads a checkpoint, and the config in it (None where there is none).

    Of what is `given`, `reset` names parts to begin anew, `step` the schedule's step to go on from, `rewarm` the steps
    over which the learning rate rises again from there, `rewarm_new` the new entries' own rise; `config`, `dialect`
    and `param_order` help to understand other trainers'.

    Raises CheckpointError for a file that is damaged, RequestError for a schedule that a run cannot follow.
    """
    read = read_checkpoint(path)  # names what is wrong with the file, and never runs its code
    if not _is_own(read):
        return _resumed_elsewhere(read, given)
    tree: dict[str, Any] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    reset, arguments = given.get("reset", ()), dict(tree.get("hyper_parameters") or {})
    stored_step = int(tree.get("global_step") or 0)
    start = _start(stored_step, given)
    has_groups = bool(tree.get("optimizer_states")) and "optimizer" not in reset
    place = DataPosition() if "data" in reset else DataPosition(int(tree.get(POSITION, 0)), int(tree.get(TOKENS, 0)))
    resumed = Resumed(
        path=path,
        arguments=arguments,
        optimizer=tree if has_groups else None,
        place=place,
        growth=_growth(dict(tree.get(GROWTH) or {}), stored_step, start, given),
        is_newly_grown=_is_newly_grown(tree.get(GROWTH) or {}, stored_step),
        lr=_peak(arguments, tree),
        step=start,
        moved=start != stored_step,
        reset=tuple(reset),
        slope_reached=reached_in(tree),
        loss_reached=reached_in(tree, "loss_reached"),
    )
    return resumed, read.config


def _is_own(read: Checkpoint) -> bool:
    """Whether Lightning can load the file itself: this trainer wrote it, or the file that it was grown from."""
    arguments = read.rest.get("hyper_parameters")
    is_runs = isinstance(arguments, dict) and isinstance(cast(dict[str, Any], arguments).get(RUN), dict)
    names_stand_beside = all(
        one.keyed_by == "number" and all(group.names is not None for group in one.groups) for one in read.optimizers
    )
    is_module = all(name.startswith((MODULE, AVERAGE)) and "._orig_mod." not in name for name in read.tensors)
    return read.kind == "lightning" and is_runs and names_stand_beside and is_module


def _resumed_elsewhere(read: Checkpoint, given: Mapping[str, Any]) -> tuple[Resumed, Mapping[str, Any]]:
    reset = tuple(given.get("reset", ()))
    if read.schedulers and "schedule" not in reset and "schedule" not in given:
        raise RequestError(
            f"{read.path}: has a schedule of another trainer's, which `ckptgrow train` does not follow; say which one "
            "to go on with at its step (⟦schedule⟧, ⟦warmup_steps⟧, ⟦train_steps⟧), or begin anew: ⟦reset schedule⟧"
        )
    found = adopted(
        read,
        given.get("config"),
        dialect=given.get("dialect"),
        with_optimizer="optimizer" not in reset,
        param_order=given.get("param_order"),
    )
    stored_step = read.position.global_step or 0
    start = _start(stored_step, given)
    resumed = Resumed(
        path=read.path,
        arguments={},
        optimizer=None if found.optimizer is None else {"optimizer_states": [found.optimizer]},
        place=DataPosition(),
        growth=_growth(dict(read.growth.log), stored_step, start, given),
        is_newly_grown=_is_newly_grown(read.growth.log, stored_step),
        lr=max(found.base_lrs, default=0.0),
        step=start,
        reset=reset,
        adopted=found,
    )
    return resumed, found.state.config


def _start(stored_step: int, given: Mapping[str, Any]) -> int:
    asked = given.get("step")
    return int(asked) if asked is not None else 0 if "schedule" in given.get("reset", ()) else stored_step


def _growth(stored: dict[str, Any], stored_step: int, start: int, given: Mapping[str, Any]) -> dict[str, Any]:
    if stored and start != stored_step:
        stored["rewarm"] = None  # it was for where the schedule was
    if given.get("rewarm_new") is not None:
        stored = {**stored, NEW_RISE: NewRise.checked(*given["rewarm_new"]).state()}
    if given.get("rewarm") is None:
        return stored
    if given["rewarm"] == 0:
        return {**stored, "rewarm": None} if stored else stored
    return {"version": __version__, "history": [], **stored, "rewarm": {"start": start, "steps": given["rewarm"]}}


def _is_newly_grown(log: Mapping[str, Any], stored_step: int) -> bool:
    history = log.get("history")
    return bool(history) and (history[-1]["step"][1] or 0) == stored_step


def _peak(arguments: Mapping[str, Any], tree: Mapping[str, Any]) -> float:
    """The peak learning rate of the run; for checkpoints of other scripts, the largest one of a group."""
    if "lr" in arguments:
        return float(arguments["lr"])
    states = tree.get("optimizer_states") or [{"param_groups": []}]
    rates = [float(group.get("initial_lr", group["lr"])) for group in states[0]["param_groups"]]
    return max(rates, default=0.0)


def _with_accumulation(loops: Any, old: int | None, new: int) -> Any:
    """Lightning's loops with micro-batches counted for another accumulation.

    Lightning makes an optimizer step where this count is a multiple of the accumulation.
    """
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
