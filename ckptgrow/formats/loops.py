"""Lightning's loop counters: the optimizer's clock, which growth may move, and the place in the data, which
it never does.

Source: lightning.pytorch.loops (2.x), `_Progress` and `_FitLoop.state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DATA_CLOCKS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict")
AUTOMATIC_PROGRESS = "epoch_loop.automatic_optimization.optim_progress"
MANUAL_PROGRESS = "epoch_loop.manual_optimization.optim_step_progress"


def data_position(tree: Mapping[str, Any]) -> Any:
    """Which samples were seen: epochs and batches, apart from the optimizer's and the schedule's clocks."""
    loops = tree.get("loops")
    fit_loop = loops.get("fit_loop", {}) if isinstance(loops, dict) else {}
    return {"epoch": tree.get("epoch"), **{key: fit_loop[key] for key in DATA_CLOCKS if key in fit_loop}}


def with_step(loops: Any, step: int) -> Any:
    """The loops' progress with the optimizer's clock at `step`; batches and epochs, the data position, stay."""
    if not isinstance(loops, dict) or "fit_loop" not in loops:
        return loops
    fit_loop = dict(loops["fit_loop"])
    automatic = fit_loop.get(AUTOMATIC_PROGRESS)
    if automatic is not None:
        optimizer = {**automatic["optimizer"], "step": _at(automatic["optimizer"]["step"], step)}
        fit_loop[AUTOMATIC_PROGRESS] = {**automatic, "optimizer": optimizer}
    manual = fit_loop.get(MANUAL_PROGRESS)
    if manual is not None and manual["total"]["completed"] > 0:
        fit_loop[MANUAL_PROGRESS] = _at(manual, step)
    return {**loops, "fit_loop": fit_loop}


def _at(progress: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {**progress, "total": dict.fromkeys(progress["total"], step)}


def fresh_loops(step: int, epoch: int) -> dict[str, Any]:
    """Counters of a fit that has done `step` optimizer steps and stands at the beginning of an epoch."""
    stepped = {"total": _progress(step, "ready", "completed"), "current": _progress(step, "ready", "completed")}
    zeroed = dict.fromkeys(("total", "current"), _progress(step, "ready", "started", "completed"))
    nothing = dict.fromkeys(("total", "current"), _progress(0, "ready", "completed"))
    batches = {"total": _batches(step), "current": _batches(0), "is_last_batch": False}
    no_batches = {"total": _batches(0), "current": _batches(0), "is_last_batch": False}
    fit_loop = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": step},
        "epoch_loop.batch_progress": batches,
        "epoch_loop.scheduler_progress": stepped,
        "epoch_loop.automatic_optimization.state_dict": {},
        AUTOMATIC_PROGRESS: {"optimizer": {"step": stepped, "zero_grad": zeroed}},
        "epoch_loop.manual_optimization.state_dict": {},
        MANUAL_PROGRESS: nothing,
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": no_batches,
        "epoch_progress": {"total": _batches(epoch), "current": _batches(epoch)},
    }
    return {"fit_loop": fit_loop}


def _progress(count: int, *fields: str) -> dict[str, int]:
    return dict.fromkeys(fields, count)


def _batches(count: int) -> dict[str, int]:
    return _progress(count, "ready", "started", "processed", "completed")
