"""Where an output may be written: asked before anything heavy is imported, and again before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from ckptgrow.addresses.address import check_address, is_address
from ckptgrow.errors import RequestError, listing

ARCHIVES = (".bin", ".ckpt", ".pt", ".pth")  # files of torch.save
OTHERS = (".gguf", ".h5", ".json", ".jsonl", ".npz", ".onnx", ".safetensors", ".yaml", ".yml")  # never a whole state
DEFAULT_SHARD_BYTES = 5 * 10**9  # of a file of weights at most


def check_target(source: Path, target: Path, *, force: bool) -> None:
    """Raises RequestError where writing `target` would overwrite the source, or something else without `force`, be it a
    path or an address.
    """
    if is_address(target):
        check_address(target, force=force)
        return
    if target.exists() and source.exists() and target.samefile(source):
        raise RequestError(f"{target}: is the input itself, expected another path")
    if target.exists() and not force:
        raise RequestError(f"{target}: exists already; choose another path, or pass ⟦force⟧ to replace it")
    if not target.parent.is_dir():
        raise RequestError(f"{target.parent}: no such directory, expected one to write {target.name} into")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise RequestError(
            f"{target.parent}: may not be written (permission denied), expected a directory to write {target.name} "
            "into; choose another one"
        )


def check_suffix(target: Path, *, is_directory: bool, besides: str = "") -> None:
    """Raises RequestError where a name says another kind of checkpoint than the one that will be written there;
    `besides` is a suffix that it may have all the same.
    """
    suffix = target.suffix.lower()
    if suffix == besides.lower():
        return
    if suffix in OTHERS or (is_directory and suffix in ARCHIVES):
        what = "a directory" if is_directory else f"a file of torch.save ({listing(ARCHIVES)})"
        raise RequestError(f"{target}: its suffix says another kind, expected a name for {what}; choose another one")
