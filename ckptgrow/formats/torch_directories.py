"""A directory whose parts lie in files that `torch.save` wrote: `model.pt`, `optimizer.pt`, `scheduler.pt`, or one file
with all of them beside the trainer's config, as litgpt has it.

The directory is read as one tree, whose first keys are its files. Files that hold no part are carried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.adapters import BESIDE
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.growth_log import GrowthHistory
from ckptgrow.formats.places import found_in
from ckptgrow.formats.sidecar_files import CODE, RANDOM_STATES, Files, read_beside, write_beside, write_growth
from ckptgrow.formats.torch_files import from_places, tree_of
from ckptgrow.progress import Advance
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.files.tensor_writing import fill

ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True)
class TorchDirectoryFormat:
    """See the module's head."""

    kind: str = "torch-files"

    def recognises(self, path: Path) -> bool:
        """A directory with a file that is called as torch's archives are."""
        return path.is_dir() and bool(_candidates(path))

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where none of its files holds a model."""
        tree = {name: archive.read(path / name) for name in _candidates(path)}
        whole = [name for name, one in tree.items() if _is_whole({name: one})]
        if len(whole) > 1:
            raise CheckpointError(f"{path}: holds {len(whole)} checkpoints, expected one; name one of {listing(whole)}")
        with at(path):
            used = {str(keys[0]) for keys in found_in(tree).taken}
        parts = {name: one for name, one in tree.items() if name in used}
        checkpoint = from_places(parts, path, self.kind, [(name,) for name in parts])
        beside = read_beside(path, self.kind, used, Files())
        return replace(
            checkpoint,
            config=checkpoint.config or beside.config,
            growth=beside.growth,
            carried=beside.carried,
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes every file that was read, and copies the others."""
        path.mkdir()
        parts = write_beside(replace(checkpoint, layout=None, schedulers=(), scaler=None, optimizers=()), path)
        tree = tree_of(replace(checkpoint, growth=GrowthHistory()))
        fill([*parts, *(archive_writing.outline(one, path / name) for name, one in tree.items())], advance)
        write_growth(checkpoint, path)


def _is_whole(tree: Mapping[str, Any]) -> bool:
    """Whether a file holds a model and its optimizer by itself."""
    try:
        return bool(found_in(tree).optimizers)
    except CheckpointError:
        return False


def _candidates(path: Path) -> list[str]:
    """The files of a directory that could hold parts: not random states, nor pickles of code."""
    names = sorted(one.name for one in path.iterdir() if one.is_file() and one.suffix in ENDINGS)
    return [name for name in names if name != CODE and not any(one.fullmatch(name) for one in (RANDOM_STATES, BESIDE))]
