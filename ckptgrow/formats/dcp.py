"""torch's distributed checkpoints: a directory with `.metadata` and `*.distcp`, as FSDP in Lightning, torchtitan and
`torch.distributed.checkpoint.state_dict` write them.

The model lies under `model` (or `state_dict`, or at the top), optimizers under `optimizer`, `optim` or `optimizer_0`
and so on, their parameters by name. Lightning adds `meta.pt`: the rest of its checkpoint. A
`config.json` may lie beside it; other files in the directory are copied.

OLMo-core has all this in a folder `model_and_optim` of the checkpoint, whose `config.json` is its own, and the run's
position in `train/rank*.pt`, one file a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ckptgrow.distributed import processes
from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.checked_parts import checked_step
from ckptgrow.formats.checkpoint import Checkpoint, Order, RunPosition
from ckptgrow.formats.flat_optimizers import flattened, is_flat, nested
from ckptgrow.formats.lightning import from_tree, tree_of
from ckptgrow.formats.sidecar_files import CONFIG, others_in
from ckptgrow.progress import Advance
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.files.json_files import read_config, write_config
from ckptgrow.storage.tensors import is_lazy
from ckptgrow.storage.tree import Tree, with_node

METADATA, META = ".metadata", "meta.pt"
FOLDER, TRAIN = "model_and_optim", "train"  # as OLMo-core calls them
STEP = "global_step"  # in a counter
MODEL_KEYS = ("model", "state_dict")
OPTIMIZER_KEYS = ("optimizer", "optim")
SCHEDULER_KEYS = ("lr_scheduler", "scheduler")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Under which keys the parts lie: the model (at the top where it has none), optimizers, those of them that are
    flat, schedulers, and what is none of these. `has_config` tells whether a config lies beside them, `folder` in
    which folder of the checkpoint the data lies, `counters` are the files that count the run's steps.
    """

    model: str | None = "model"
    optimizers: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    has_config: bool = False
    folder: str = ""
    counters: tuple[str, ...] = ()
    order: Order = "file"

    @classmethod
    def of(cls, tree: Mapping[str, Tree], path: Path) -> Keys:
        """Finds the parts of the state that a directory holds."""
        model = next((key for key in MODEL_KEYS if isinstance(tree.get(key), dict)), None)
        optimizers = tuple(key for key in tree if key in OPTIMIZER_KEYS or key.startswith("optimizer_"))
        flat = tuple(key for key in optimizers if is_flat(tree[key]))
        schedulers = tuple(key for key in SCHEDULER_KEYS if "last_epoch" in _dict(tree.get(key)))
        known = {model, *optimizers, *schedulers}
        others = (key for key, one in tree.items() if key not in known and (model or not is_lazy(one)))
        folder = _folder(path) or ""
        return cls(
            model=model,
            optimizers=optimizers,
            flat=flat,
            schedulers=schedulers,
            others=tuple(others),
            has_config=not folder and (path / CONFIG).is_file(),
            folder=folder,
        )


@dataclass(frozen=True)
class DistributedFormat:
    """torch's distributed checkpoints as a format."""

    kind: str = "dcp"

    def recognises(self, path: Path) -> bool:
        """Whether `path` is a directory with `.metadata`, or with a folder that has it."""
        return _folder(path) is not None

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where it is damaged or holds no model."""
        from ckptgrow.storage.dcp_io import dcp_reading  # torch's part of it takes a second to import

        tree = dcp_reading.read(path / (_folder(path) or "") / METADATA)
        meta = archive.read(path / META) if (path / META).is_file() else {}
        keys = Keys.of(tree, path)
        state = _dict(tree.get(keys.model)) if keys.model else {k: v for k, v in tree.items() if is_lazy(v)}
        tensors = {name: value for name, value in state.items() if is_lazy(value)}
        if isinstance(_dict(tree.get("state")).get("model"), dict):
            raise CheckpointError(
                f"{path}: is Composer's sharded checkpoint, expected its whole one; make that of it: python -m "
                f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} {path}.pt"
            )
        if not tensors or len(tensors) < len(state):
            raise CheckpointError(f"{path}: holds {listing(tree)}, expected a model's tensors under 'model'")
        with at(path):
            optimizers = [_nested(tree[key]) for key in keys.optimizers]
        parts: dict[str, Tree] = {
            "state_dict": tensors,
            "optimizer_states": optimizers,
            **({"lr_schedulers": [tree[key] for key in keys.schedulers]} if keys.schedulers else {}),
        }
        checkpoint = from_tree({**_dict(meta), **parts}, path, self.kind)
        config = checkpoint.config
        if config is None and keys.has_config:
            config = read_config(path / CONFIG)
        checkpoint = replace(
            checkpoint, config=config, rest={**checkpoint.rest, **{key: tree[key] for key in keys.others}}, layout=keys
        )
        if keys.folder:
            return _with_counters(checkpoint, keys)
        data = {file.name for file in path.glob("*.distcp")}
        return replace(checkpoint, carried=others_in(path, {METADATA, META, CONFIG, *data}))

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory through `torch.distributed.checkpoint`; all processes of torchrun write their share."""
        from ckptgrow.storage.dcp_io import dcp_writing

        together = processes()
        fresh = Keys(optimizers=tuple(f"optimizer_{number}" for number in range(len(checkpoint.optimizers))))
        keys = checkpoint.layout if isinstance(checkpoint.layout, Keys) else fresh
        others = {key: value for key, value in checkpoint.rest.items() if key in keys.others}
        dcp_writing.write({**_parts(checkpoint, keys), **others}, path / keys.folder, together, advance)
        if checkpoint.growth.source is not None:
            checkpoint.growth.source.share(together)
        if together.rank == 0:
            checkpoint.carried.copy_to(path)
            for name in keys.counters:
                counted = with_node(checkpoint.rest[name], (STEP,), checkpoint.position.global_step)
                (path / name).parent.mkdir(exist_ok=True)
                archive_writing.write(counted, path / name, advance)
            apart = (*keys.others, *keys.counters)
            rest = {key: value for key, value in checkpoint.rest.items() if key not in apart}
            position = RunPosition() if keys.counters else checkpoint.position
            tree = tree_of(replace(checkpoint, tensors={}, optimizers=(), rest=rest, position=position))
            meta = {key: value for key, value in tree.items() if key not in ("state_dict", "optimizer_states")}
            archive_writing.write(meta, path / META, advance, checkpoint.growth.source)
            if keys.has_config and checkpoint.config is not None:
                write_config(path / CONFIG, checkpoint.config)


def _parts(checkpoint: Checkpoint, keys: Keys) -> dict[str, Tree]:
    """A checkpoint's parts under their keys."""
    tensors = dict(checkpoint.tensors)
    optimizers = dict(zip(keys.optimizers, checkpoint.optimizers, strict=False))
    return {
        **({keys.model: tensors} if keys.model else tensors),
        **{key: flattened(one) if key in keys.flat else one.to_torch() for key, one in optimizers.items()},
        **dict(zip(keys.schedulers, map(dict, checkpoint.schedulers), strict=False)),
    }


def _folder(path: Path) -> str | None:
    """Where in a directory the data lies: "" for the directory itself, None where there is none."""
    return next((one for one in ("", FOLDER) if (path / one / METADATA).is_file()), None)


def _with_counters(checkpoint: Checkpoint, keys: Keys) -> Checkpoint:
    """With the files of OLMo-core's own directory, and the run's position from those of each process."""
    path = checkpoint.path
    carried = others_in(path, {META, keys.folder, TRAIN})
    if (path / TRAIN).is_dir():
        carried = carried.with_folder(TRAIN, others_in(path / TRAIN, ()))
    trees = {name: tree for name, tree in carried.contents.items() if _is_count(_dict(tree).get(STEP))}
    step = next((_dict(tree)[STEP] for tree in trees.values()), None)
    return replace(
        checkpoint,
        position=replace(checkpoint.position, global_step=checked_step(step)),
        rest={**checkpoint.rest, **trees},
        carried=carried.without(trees),
        layout=replace(keys, counters=tuple(trees)),
    )


def _is_count(value: Tree) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _nested(raw: Tree) -> Tree:
    """An optimizer's state as torch has it; of records that are none a distributed checkpoint writes nothing."""
    if is_flat(raw):
        return nested(raw)
    return {"state": {}, **raw} if isinstance(raw, dict) else raw


def _dict(value: Tree) -> dict[str, Tree]:
    return value if isinstance(value, dict) else {}
