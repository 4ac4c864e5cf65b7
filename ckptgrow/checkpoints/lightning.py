"""Lightning's `.ckpt`: a torch archive with `state_dict`, optimizers, schedulers, loops and hyper-parameters.

Lightning 2.x counts in `loops`; 1.3 (the staged-training paper's) has only `global_step` and `epoch`.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ckptgrow.checkpoints import archive
from ckptgrow.checkpoints.checkpoint import Advance, Checkpoint
from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.errors import CheckpointError, listing

GROWTH_KEY = "ckptgrow"
LIGHTNING_VERSION = "2.6.6"  # whose layout new files have
UNDERSTOOD = ("state_dict", "optimizer_states", "lr_schedulers", GROWTH_KEY)
SCALER_KEYS = ("MixedPrecision", "MixedPrecisionPlugin", "NativeMixedPrecisionPlugin", "native_amp_scaling_state")
DATA_CLOCKS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict")
AUTOMATIC_PROGRESS = "epoch_loop.automatic_optimization.optim_progress"
MANUAL_PROGRESS = "epoch_loop.manual_optimization.optim_step_progress"


@dataclass(frozen=True)
class LightningFormat:
    """See the module's head."""

    kind: str = "lightning"

    def recognises(self, path: Path) -> bool:
        """Any file: the archive itself says the rest."""
        return path.is_file()

    def read(self, path: Path) -> Checkpoint:
        """Reads a `.ckpt`; raises CheckpointError where the archive holds no `state_dict`."""
        tree = archive.read(path)
        if not isinstance(tree, dict) or not isinstance(tree.get("state_dict"), dict):
            found = listing(tree) if isinstance(tree, dict) else type(tree).__name__
            raise CheckpointError(f"{path}: holds {found}, expected a Lightning checkpoint with 'state_dict'")
        tree = cast(dict[str, Any], tree)
        stray = [name for name, value in tree["state_dict"].items() if not isinstance(value, LazyTensor)]
        if stray:
            raise CheckpointError(f"{path}: state_dict has values that are no tensors: {listing(stray)}")
        arguments = _plain(tree.get("hyper_parameters"))
        return Checkpoint(
            path=path,
            kind=self.kind,
            tensors=tree["state_dict"],
            config=_config(arguments),
            original_arguments=_original_arguments(arguments),
            optimizers=tuple(tree.get("optimizer_states") or ()),
            schedulers=tuple(tree.get("lr_schedulers") or ()),
            global_step=tree.get("global_step"),
            epoch=tree.get("epoch"),
            precision="16-mixed" if any(tree.get(key) for key in SCALER_KEYS) else None,
            growth=tree.get(GROWTH_KEY) or {},
            rest={key: None if key in UNDERSTOOD else value for key, value in tree.items()},
            data_position=_data_position(tree),
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a `.ckpt` with the order and the other keys of the one that was read."""
        tree = dict(checkpoint.rest or {})
        tree["state_dict"] = OrderedDict(checkpoint.tensors)
        for key, states in (("optimizer_states", checkpoint.optimizers), ("lr_schedulers", checkpoint.schedulers)):
            if states or key in tree:
                tree[key] = [dict(one) for one in states]
        if checkpoint.global_step != tree.get("global_step"):
            tree["global_step"] = checkpoint.global_step
        if checkpoint.global_step is not None and "loops" in tree:
            tree["loops"] = _with_step(tree["loops"], checkpoint.global_step)
        tree["hyper_parameters"] = _with_config(tree.get("hyper_parameters"), checkpoint.config)
        tree[GROWTH_KEY] = dict(checkpoint.growth)
        archive.write(tree, path, advance)


def fresh_rest(global_step: int, epoch: int) -> dict[str, Any]:
    """Lightning's other keys for a state that comes from elsewhere, its loops' clocks at `global_step`."""
    steps = {"ready": global_step, "completed": global_step}
    batches = {**steps, "started": global_step, "processed": global_step}
    zeros = dict.fromkeys(steps, 0)
    progress = {"total": batches, "current": batches, "is_last_batch": False}
    fit_loop = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": global_step},
        "epoch_loop.batch_progress": progress,
        "epoch_loop.scheduler_progress": {"total": steps, "current": steps},
        "epoch_loop.automatic_optimization.state_dict": {},
        AUTOMATIC_PROGRESS: {
            "optimizer": {
                "step": {"total": steps, "current": steps},
                "zero_grad": {"total": {**steps, "started": global_step}, "current": {**steps, "started": global_step}},
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        MANUAL_PROGRESS: {"total": zeros, "current": zeros},
        "epoch_loop.val_loop.state_dict": {},
        "epoch_progress": {
            "total": dict.fromkeys(batches, epoch),
            "current": dict.fromkeys(batches, epoch),
        },
    }
    return {
        "epoch": epoch,
        "global_step": global_step,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        **dict.fromkeys(UNDERSTOOD[:-1]),
        "loops": {"fit_loop": fit_loop},
        "callbacks": {},
        "hparams_name": "kwargs",
        "hyper_parameters": {},
    }


def _data_position(tree: Mapping[str, Any]) -> Any:
    """Which samples were seen: epochs and batches, apart from the optimizer's and the schedule's clocks."""
    loops = tree.get("loops")
    fit_loop = loops.get("fit_loop", {}) if isinstance(loops, dict) else {}
    return {"epoch": tree.get("epoch"), **{key: fit_loop[key] for key in DATA_CLOCKS if key in fit_loop}}


def _plain(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, Namespace):
        return dict(vars(arguments))
    return dict(arguments) if isinstance(arguments, dict) else {}


def _config(arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A transformers config among the hyper-parameters: a mapping with `model_type`."""
    config = arguments.get("config")
    if isinstance(config, Namespace):
        config = vars(config)
    return dict(config) if isinstance(config, dict) and "model_type" in config else None


def _original_arguments(arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The staged-training script's arguments, at the top or under `args`."""
    nested = _plain(arguments.get("args"))
    for candidate in (arguments, nested):
        if "seqlen" in candidate and ("size" in candidate or "layers" in candidate):
            return candidate
    return None


def _with_config(arguments: Any, config: Mapping[str, Any] | None) -> Any:
    if config is None:
        return {} if arguments is None else arguments
    if isinstance(arguments, Namespace):
        return Namespace(**{**vars(arguments), "config": dict(config)})
    return {**(arguments or {}), "config": dict(config)}


def _with_step(loops: Any, step: int) -> Any:
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
