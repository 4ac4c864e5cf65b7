"""Files beside a checkpoint that no rule reads: which of them hold training state, and which are harmless.

Partitions of optimizers are recognised by the names that their trainers give them, weights in other files by their
dtypes. Logs, other checkpoints, and the same weights in the same precision are harmless.

Source: DeepSpeed, `runtime/engine.py` (`_get_zero_ckpt_name`, `_get_ckpt_name`); Megatron-LM,
`training/checkpointing.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ckptgrow.errors import CheckpointError, RequestError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.storage.archives.archive import DAMAGES, read
from ckptgrow.storage.files.safetensor_files import read_file
from ckptgrow.storage.tensors import LazyTensor
from ckptgrow.storage.tree import tensors_in

PARTITIONS = re.compile(
    r"global_step\d+|(bf16_|fp16_)?zero_(pp|dp|ep)_rank_.*|mp_rank_\d+.*|.*optim_states.*|.*_model_states\.pt"
    r"|iter_\d+|distrib_optim.*|optim(izer)?([._-].*)?|.*[._-]optim(izer)?([._-](state|rank|shard).*)?\.\w+"
    r"|.*\.distcp|layer_\d+-model.*|recipe_state\.pt"
)
MANY = 10_000  # files of a directory that are looked at


def state_in(path: Path, names: Sequence[str], taken: Sequence[LazyTensor]) -> list[str]:
    """Those of some files and directories beside a checkpoint that hold training state, sorted.

    `taken` are the weights that were read: others in a wider dtype are masters.
    """
    return sorted(name for name in names if _is_partition(path / name) or _is_wider(path / name, taken))


def check_left_behind(checkpoint: Checkpoint, *, is_reset: bool) -> list[str]:
    """The state that lies beside a checkpoint and that no rule reads.

    Raises RequestError where the optimizer is not to begin anew (`is_reset`): nothing is left behind in silence.
    """
    names = [*checkpoint.carried.left_behind, *checkpoint.carried.unreadable]
    found = state_in(checkpoint.path, names, list(checkpoint.tensors.values()))
    apart = [name for name in found if name.startswith("../")]
    if apart and not is_reset:
        raise RequestError(
            f"{checkpoint.path}: its optimizer lies in {apart[0]}, expected it beside the weights; copy it into this "
            "directory, or go on without it: ⟦reset optimizer⟧"
        )
    if found and not is_reset:
        raise RequestError(
            f"{checkpoint.path}: {listing(found)} holds training state that no rule reads, expected an optimizer that "
            "torch saved whole; save it so, or go on without it: ⟦reset optimizer⟧"
        )
    return found


def _is_partition(path: Path) -> bool:
    if _is_earlier(path):
        return False
    if PARTITIONS.fullmatch(path.name):
        return True
    if not path.is_dir() or path.name.startswith("checkpoint-"):  # another checkpoint
        return False
    inside = [one.name for _, one in zip(range(MANY), path.iterdir(), strict=False)]
    return any(PARTITIONS.fullmatch(name) for name in inside)


def _is_earlier(path: Path) -> bool:
    """Whether a directory is another state than the one that DeepSpeed's `latest` beside it names."""
    latest = path.parent / "latest"
    if not path.is_dir() or not latest.is_file():
        return False
    named = latest.read_text().strip()
    return named != path.name and (path.parent / named).is_dir()


def _is_wider(path: Path, taken: Sequence[LazyTensor]) -> bool:
    """Whether a file holds floating-point weights of a wider dtype than all that were read."""
    if not path.is_file():
        return False
    try:
        others = list(read_file(path)[0].values()) if path.suffix == ".safetensors" else _tensors(path)
    except (CheckpointError, *DAMAGES):
        return False
    matrices = {tensor.shape for tensor in taken if len(tensor.shape) > 1}
    copies = [tensor for tensor in others if tensor.shape in matrices]
    return _widest(copies) > _widest(taken) > 0


def _tensors(path: Path) -> list[LazyTensor]:
    return [tensor for _, tensor in tensors_in(read(path))]


def _widest(tensors: Sequence[LazyTensor]) -> int:
    return max((one.dtype.itemsize for one in tensors if one.dtype.is_floating_point), default=0)
