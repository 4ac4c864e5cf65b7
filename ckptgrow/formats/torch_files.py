"""One file that `torch.save` wrote: Lightning's, or the dictionary of Fabric, Composer, nanoGPT and people's own loops.

Each part is written again where it lay. Growth adds one key, `ckptgrow`, to the dictionary; where the dictionary is a
bare state dict, which a strict `load_state_dict` reads, it goes among the state dict's metadata.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ckptgrow.errors import CheckpointError, at
from ckptgrow.formats.checked_parts import checked_schedulers, checked_step
from ckptgrow.formats.checkpoint import Checkpoint, RunPosition
from ckptgrow.formats.growth_log import GrowthHistory, growth_log
from ckptgrow.formats.lightning import GROWTH_KEY, LIGHTNING, from_tree
from ckptgrow.formats.lightning import tree_of as lightning_tree
from ckptgrow.formats.pickled_configs import config_in, with_fields
from ckptgrow.formats.places import Places, found_in, is_optimizer, model_tensors
from ckptgrow.formats.raw_optimizers import RawOptimizer, raw_optimizer
from ckptgrow.progress import Advance
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.pickles.opaque import Opaque
from ckptgrow.storage.tree import Keys, node_at, path_text, with_node

LIGHTNINGS = ("pytorch-lightning_version", "optimizer_states", "lr_schedulers", "loops", "hyper_parameters")
METADATA = "_metadata"  # torch's attribute of state dicts, which load_state_dict reads by the names of modules


@dataclass(frozen=True)
class TorchFileFormat:
    """See the module's head."""

    kind: str = "torch"

    def recognises(self, path: Path) -> bool:
        """Any file: the archive itself says the rest."""
        return path.is_file()

    def read(self, path: Path) -> Checkpoint:
        """Reads a file; raises CheckpointError where no model is found in it."""
        tree = archive.read(path)
        if not isinstance(tree, dict):
            raise CheckpointError(f"{path}: holds a {type(tree).__name__}, expected a dictionary with a model")
        if is_lightning(tree):
            return from_tree(tree, path, LIGHTNING)
        return from_places(cast(dict[str, Any], tree), path, self.kind)

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes the tree that was read, with what grew in its place."""
        tree = lightning_tree(checkpoint) if checkpoint.kind == LIGHTNING else tree_of(checkpoint)
        archive_writing.write(tree, path, advance, checkpoint.growth.source)


def is_lightning(tree: Mapping[Any, Any]) -> bool:
    """Whether a file's keys are Lightning's: it calls its parts so, or has nothing but a state dict under its word."""
    return any(key in tree for key in LIGHTNINGS) or (
        "state_dict" in tree and not any(map(is_optimizer, tree.values()))
    )


def from_places(tree: Mapping[str, Any], path: Path, kind: str, roots: Sequence[Keys] = ((),)) -> Checkpoint:
    """A checkpoint from a tree, `roots` the tops of its files.

    Raises CheckpointError where a part is missing or malformed.
    """
    with at(path):
        places = found_in(tree, roots)
        optimizers = tuple(_optimizer(tree, keys) for keys in places.optimizers)
        schedulers = checked_schedulers([node_at(tree, keys) for keys in places.schedulers])
        step = None if places.step is None else checked_step(node_at(tree, places.step), path_text(places.step))
        growth = growth_log(tree.get(GROWTH_KEY) or getattr(tree, METADATA, {}).get(GROWTH_KEY, {}))
    rest: Mapping[str, Any] = {} if places.model == () else tree
    if places.model == ():
        taken = model_tensors(tree, replace(places, averages=(), lists=()))
        rest = {key: value for key, value in tree.items() if key not in taken}
    for keys in places.taken:
        rest = with_node(rest, keys, None)
    config_node = None if places.config is None else node_at(tree, places.config)
    return Checkpoint(
        path=path,
        kind=kind,
        tensors=model_tensors(tree, places),
        config=_config(config_node) or growth.get("config"),
        optimizers=optimizers,
        schedulers=schedulers,
        scaler=None if places.scaler is None else node_at(tree, places.scaler),
        position=RunPosition(step, None if places.epoch is None else node_at(tree, places.epoch)),
        growth=GrowthHistory(growth),
        rest={key: value for key, value in rest.items() if key != GROWTH_KEY},
        layout=replace(places, config_object=config_node),
    )


def _optimizer(tree: Mapping[str, Any], keys: Keys) -> RawOptimizer:
    with at(path_text(keys)):
        return raw_optimizer(node_at(tree, keys))


def tree_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the file holds, its tensors lazy; raises CheckpointError where a part has no place in it."""
    places = checkpoint.layout if isinstance(checkpoint.layout, Places) else Places()
    parts = _parts(checkpoint, places)
    tree: Any = dict(checkpoint.rest)
    top = parts.pop((), None)
    for keys, value in parts.items():
        tree = with_node(tree, keys, value)
    growth = checkpoint.growth.to_json()
    if places.config is None and growth and checkpoint.config is not None:
        growth["config"] = dict(checkpoint.config)
    if top is None:
        return {**tree, **({GROWTH_KEY: growth} if growth else {})}
    bare = OrderedDict([*top.items(), *tree.items()])
    if growth:
        setattr(bare, METADATA, {"": {"version": 1}, GROWTH_KEY: growth})
    return bare


def _parts(checkpoint: Checkpoint, places: Places) -> dict[Keys, Any]:
    """Every part by the keys that lead to it."""
    parts: dict[Keys, Any] = {}
    left = dict(checkpoint.tensors)
    for average in places.averages:
        prefix = places.prefix_of(average)
        own = {name: tensor for name, tensor in left.items() if name.startswith(prefix)}
        left = {name: tensor for name, tensor in left.items() if name not in own}
        parts[average] = OrderedDict((name.removeprefix(prefix), tensor) for name, tensor in own.items())
    for keys in places.lists:
        prefix = places.prefix_of(keys)
        parts[keys] = [tensor for name, tensor in left.items() if name.startswith(prefix)]
        left = {name: tensor for name, tensor in left.items() if not name.startswith(prefix)}
    parts = {places.model: OrderedDict(left), **parts}
    states = [one.to_torch() for one in checkpoint.optimizers]
    parts |= _placed(places.optimizers, states, "optimizer")
    parts |= _placed(places.schedulers, checkpoint.schedulers, "scheduler")
    if places.scaler is not None and checkpoint.scaler is not None:
        parts[places.scaler] = dict(checkpoint.scaler)
    if places.step is not None:
        parts[places.step] = checkpoint.position.global_step
    if places.config is not None and checkpoint.config is not None:
        parts[places.config] = _with_config(places.config_object, checkpoint.config)
    return parts


def _placed(keys: tuple[Keys, ...], states: Any, word: str) -> dict[Keys, Any]:
    """States by their places; where they come from another kind, under `word`."""
    chosen = keys if len(keys) >= len(states) else ((word,), *((f"{word}_{number}",) for number in range(1, 9)))
    return {place: dict(state) for place, state in zip(chosen, states, strict=False)}


def _config(node: Any) -> Mapping[str, Any] | None:
    return config_in(node) if isinstance(node, Opaque) else dict(node or {})


def _with_config(old: Any, config: Mapping[str, Any]) -> Any:
    return with_fields(old, config) if isinstance(old, Opaque) else dict(config)
