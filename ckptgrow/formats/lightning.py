"""Lightning's `.ckpt`: a torch archive with `state_dict`, optimizers, schedulers, loops and hyper-parameters.

Lightning 2.x counts in `loops`; 1.3 (the staged-training paper's) has only `global_step` and `epoch`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.checked_parts import checked_schedulers, checked_step
from ckptgrow.formats.checkpoint import Checkpoint, Config, RunPosition
from ckptgrow.formats.growth_log import GrowthHistory, growth_log
from ckptgrow.formats.lightning_averages import LightningPlaces
from ckptgrow.formats.loops import data_position, with_step
from ckptgrow.formats.pickled_configs import config_in, with_fields
from ckptgrow.formats.raw_optimizers import raw_optimizers
from ckptgrow.storage.pickles.opaque import Opaque
from ckptgrow.storage.tensors import is_lazy
from ckptgrow.storage.tree import Tree

LIGHTNING, GROWTH_KEY = "lightning", "ckptgrow"
UNDERSTOOD = ("state_dict", "optimizer_states", "lr_schedulers", GROWTH_KEY)
SCALER_KEYS = ("MixedPrecision", "MixedPrecisionPlugin", "NativeMixedPrecisionPlugin", "native_amp_scaling_state")


def tree_of(checkpoint: Checkpoint) -> dict[str, Tree]:
    """What a `.ckpt` holds, its tensors lazy."""
    places = checkpoint.layout if isinstance(checkpoint.layout, LightningPlaces) else LightningPlaces()
    tree = places.placed(checkpoint.rest, checkpoint.tensors)
    optimizers = [one.to_torch() for one in checkpoint.optimizers]
    for key, states in (("optimizer_states", optimizers), ("lr_schedulers", checkpoint.schedulers)):
        if states or key in tree:
            tree[key] = [dict(one) for one in states]
    step = checkpoint.position.global_step
    if step != tree.get("global_step"):  # moved: else all counters stay as they are
        tree["global_step"] = step
        if step is not None and "loops" in tree:
            tree["loops"] = with_step(tree["loops"], step)
    if checkpoint.scaler is not None and not any(tree.get(key) for key in SCALER_KEYS):
        tree[SCALER_KEYS[0]] = dict(checkpoint.scaler)
    log = checkpoint.growth.to_json()
    if isinstance(tree.get("hyper_parameters"), Opaque):  # nothing can be put into it from outside
        log["config"] = dict(checkpoint.config or {})
    else:
        tree["hyper_parameters"] = _with_config(tree.get("hyper_parameters"), checkpoint.config)
    tree[GROWTH_KEY] = log
    return tree


def from_tree(tree: Tree, path: Path, kind: str) -> Checkpoint:
    """A checkpoint from the tree of a `.ckpt`; raises CheckpointError where it holds no `state_dict` of tensors."""
    state = tree.get("state_dict") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or not isinstance(state, dict):
        found = listing(tree) if isinstance(tree, dict) else type(tree).__name__
        raise CheckpointError(f"{path}: holds {found}, expected a Lightning checkpoint with 'state_dict'")
    stray = {name for name, value in state.items() if not is_lazy(value)}
    if stray:
        raise CheckpointError(f"{path}: state_dict has values that are not tensors: {listing(stray)}")
    places = LightningPlaces.of(tree)
    arguments = plain_arguments(tree.get("hyper_parameters"))
    scaler = next((found for key in SCALER_KEYS if isinstance(found := tree.get(key), dict) and found), None)
    epoch = tree.get("epoch")
    with at(path):
        growth = growth_log(tree.get(GROWTH_KEY) or {})
        optimizers = raw_optimizers(tree.get("optimizer_states"))
        schedulers = checked_schedulers(tree.get("lr_schedulers"))
        global_step = checked_step(tree.get("global_step"))
    return Checkpoint(
        path=path,
        kind=kind,
        tensors=places.tensors(tree),
        config=_config(arguments) or growth.get("config"),
        optimizers=optimizers,
        schedulers=schedulers,
        scaler=scaler,
        position=RunPosition(global_step, epoch if isinstance(epoch, int | float) else None, data_position(tree)),
        growth=GrowthHistory(growth),
        rest={key: None if key in UNDERSTOOD else value for key, value in places.without(tree).items()},
        layout=places,
    )


def plain_arguments(arguments: Tree) -> dict[str, Tree]:
    """Hyper-parameters as a dict, however they were kept."""
    if isinstance(arguments, Namespace):
        return dict(vars(arguments))
    return dict(arguments) if isinstance(arguments, dict) else {}


def _config(arguments: Mapping[str, Tree]) -> Config | None:
    """A transformers config among the hyper-parameters: a mapping with `model_type`, or an object of transformers'."""
    config = arguments.get("config")
    if isinstance(config, Opaque):
        return config_in(config)
    if isinstance(config, Namespace):
        config = vars(config)
    return dict(config) if isinstance(config, dict) and "model_type" in config else None


def original_arguments(checkpoint: Checkpoint) -> Mapping[str, Tree] | None:
    """The staged-training script's arguments among the hyper-parameters, at the top or under `args`."""
    arguments = plain_arguments(checkpoint.rest.get("hyper_parameters"))
    nested = plain_arguments(arguments.get("args"))
    for candidate in (arguments, nested):
        if "seqlen" in candidate and ("size" in candidate or "layers" in candidate):
            return candidate
    return None


def _with_config(arguments: Tree, config: Config | None) -> Tree:
    if config is None:
        return {} if arguments is None else arguments
    old = plain_arguments(arguments).get("config")
    new = with_fields(old, config) if isinstance(old, Opaque) and config_in(old) is not None else dict(config)
    if isinstance(arguments, Namespace):
        return Namespace(**{**vars(arguments), "config": new})
    return {**(arguments if isinstance(arguments, dict) else {}), "config": new}
