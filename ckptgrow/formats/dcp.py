"""torch's distributed checkpoints: a directory with `.metadata` and `*.distcp`, as FSDP in Lightning, torchtitan and
`torch.distributed.checkpoint.state_dict` write them.

The model lies under `model` (or `state_dict`, or at the top), optimizers under `optimizer`, `optim` or `optimizer_0`
and so on, their parameters by name. Lightning adds `meta.pt`: the rest of its checkpoint. A
`config.json` may lie beside it; other files in the directory are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ckptgrow.distributed import processes
from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.checkpoint import Checkpoint, Order
from ckptgrow.formats.flat_optimizers import flattened, is_flat, nested
from ckptgrow.formats.lightning import from_tree, tree_of
from ckptgrow.formats.sidecar_files import CONFIG, others_in
from ckptgrow.progress import Advance
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.files.json_files import read_json, write_json
from ckptgrow.storage.tensors import is_lazy
from ckptgrow.storage.tree import Tree

METADATA, META = ".metadata", "meta.pt"
MODEL_KEYS = ("model", "state_dict")
OPTIMIZER_KEYS = ("optimizer", "optim")
SCHEDULER_KEYS = ("lr_scheduler", "scheduler")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Under which keys the parts lie: the model (at the top where it has none), optimizers, those of them that are
    flat, schedulers, and what is none of these. `has_config` tells whether a config lies beside them.
    """

    model: str | None = "model"
    optimizers: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    has_config: bool = False
    order: Order = "file"

    @classmethod
    def of(cls, tree: Mapping[str, Tree], *, has_config: bool) -> Keys:
        """Finds the parts of a state."""
        model = next((key for key in MODEL_KEYS if isinstance(tree.get(key), dict)), None)
        optimizers = tuple(key for key in tree if key in OPTIMIZER_KEYS or key.startswith("optimizer_"))
        flat = tuple(key for key in optimizers if is_flat(tree[key]))
        schedulers = tuple(key for key in SCHEDULER_KEYS if "last_epoch" in _dict(tree.get(key)))
        known = {model, *optimizers, *schedulers}
        others = (key for key, one in tree.items() if key not in known and (model or not is_lazy(one)))
        return cls(
            model=model,
            optimizers=optimizers,
            flat=flat,
            schedulers=schedulers,
            others=tuple(others),
            has_config=has_config,
        )


@dataclass(frozen=True)
class DistributedFormat:
    """torch's distributed checkpoints as a format."""

    kind: str = "dcp"

    def recognises(self, path: Path) -> bool:
        """Whether `path` is a directory with `.metadata`."""
        return path.is_dir() and (path / METADATA).is_file()

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where it is damaged or holds no model."""
        from ckptgrow.storage.dcp_io import dcp_reading  # torch's part of it takes a second to import

        tree = dcp_reading.read(path / METADATA)
        meta = archive.read(path / META) if (path / META).is_file() else {}
        keys = Keys.of(tree, has_config=(path / CONFIG).is_file())
        state = _dict(tree.get(keys.model)) if keys.model else {k: v for k, v in tree.items() if is_lazy(v)}
        tensors = {name: value for name, value in state.items() if is_lazy(value)}
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
            config = read_json(path / CONFIG)
        data = {file.name for file in path.glob("*.distcp")}
        carried = others_in(path, {METADATA, META, CONFIG, *data})
        return replace(
            checkpoint,
            config=config,
            rest={**checkpoint.rest, **{key: tree[key] for key in keys.others}},
            carried=carried,
            layout=keys,
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes a directory through `torch.distributed.checkpoint`; all processes of torchrun write their share."""
        from ckptgrow.storage.dcp_io import dcp_writing

        together = processes()
        fresh = Keys(optimizers=tuple(f"optimizer_{number}" for number in range(len(checkpoint.optimizers))))
        keys = checkpoint.layout if isinstance(checkpoint.layout, Keys) else fresh
        others = {key: value for key, value in checkpoint.rest.items() if key in keys.others}
        dcp_writing.write({**_parts(checkpoint, keys), **others}, path, together, advance)
        if together.rank == 0:
            checkpoint.carried.copy_to(path)
            rest = {key: value for key, value in checkpoint.rest.items() if key not in keys.others}
            tree = tree_of(replace(checkpoint, tensors={}, optimizers=(), rest=rest))
            meta = {key: value for key, value in tree.items() if key not in ("state_dict", "optimizer_states")}
            archive_writing.write(meta, path / META, advance, checkpoint.growth.source)
            if keys.has_config and checkpoint.config is not None:
                write_json(path / CONFIG, checkpoint.config, sort_keys=True)


def _parts(checkpoint: Checkpoint, keys: Keys) -> dict[str, Tree]:
    """A checkpoint's parts under their keys."""
    tensors = dict(checkpoint.tensors)
    optimizers = dict(zip(keys.optimizers, checkpoint.optimizers, strict=False))
    return {
        **({keys.model: tensors} if keys.model else tensors),
        **{key: flattened(one) if key in keys.flat else one.to_torch() for key, one in optimizers.items()},
        **dict(zip(keys.schedulers, map(dict, checkpoint.schedulers), strict=False)),
    }


def _nested(raw: Tree) -> Tree:
    """An optimizer's state as torch has it; of records that are none a distributed checkpoint writes nothing."""
    if is_flat(raw):
        return nested(raw)
    return {"state": {}, **raw} if isinstance(raw, dict) else raw


def _dict(value: Tree) -> dict[str, Tree]:
    return value if isinstance(value, dict) else {}
