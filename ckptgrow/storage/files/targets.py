"""Where an output may be written: asked before anything heavy is imported, and again before the work begins."""

from __future__ import annotations

import mimetypes
import os
import re
from pathlib import Path

from ckptgrow.addresses.address import check_address, is_address
from ckptgrow.errors import RequestError, listing
from ckptgrow.storage.files.file_signs import ARCHIVE, FileKind, check_replaceable

ARCHIVES = (".bin", ".ckpt", ".pt", ".pth")  # files of torch.save
OTHERS = (".gguf", ".h5", ".json", ".jsonl", ".npz", ".onnx", ".safetensors", ".yaml", ".yml")  # never a whole state
SUFFIX = re.compile(r"\.[a-z][a-z0-9]*")  # others, as of `gpt2-1.5b` or `wide.2-heads`, belong to the name
IN_DIRECTORIES = (*(f"*{one}" for one in ARCHIVES), "*.safetensors", "*.distcp", ".metadata", "*_model_0")
DEFAULT_SHARD_BYTES = 5 * 10**9  # of a file of weights at most


def check_target(source: Path, target: Path, *, force: bool, kind: FileKind = ARCHIVE) -> None:
    """Raises RequestError where writing `target` would overwrite the source, or something else without `force`, or,
    with it, what is neither a file of the kind nor a directory with a checkpoint; be it a path or an address.
    """
    if is_address(target):
        check_address(target, force=force)
        return
    if target.exists() and source.exists() and target.samefile(source):
        raise RequestError(f"{target}: is the input itself, expected another path")
    if target.exists() and not force:
        raise RequestError(f"{target}: exists already; choose another path, or pass ⟦force⟧ to replace it")
    if kind is ARCHIVE and target.is_dir():
        _check_holds_checkpoint(target)
    else:
        check_replaceable(target, kind)
    check_parent(target)


def check_directory(directory: Path) -> None:
    """Raises RequestError where a directory cannot be made, with all that lacks around it, or may not be written."""
    there = next(one for one in (directory, *directory.absolute().parents) if one.exists())
    check_parent(there / (directory.name if there != directory else "the output"))


def check_parent(target: Path) -> None:
    """Raises RequestError where the directory around `target` is not there, or may not be written."""
    if not target.parent.is_dir():
        found = "is a file" if target.parent.is_file() else "no such directory"
        raise RequestError(f"{target.parent}: {found}, expected a directory to write {target.name} into")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise RequestError(
            f"{target.parent}: may not be written (permission denied), expected a directory to write {target.name} "
            "into; choose another one"
        )


def _check_holds_checkpoint(directory: Path) -> None:
    if (directory / ".git").exists():
        raise RequestError(
            f"{directory}: is a git repository, whose history would be lost; choose another path, or remove it yourself"
        )
    patterns = [*IN_DIRECTORIES, *(f"*/{one}" for one in IN_DIRECTORIES)]
    if any(directory.iterdir()) and not any(next(directory.glob(one), None) is not None for one in patterns):
        raise RequestError(f"{directory}: is a directory with something else than a checkpoint; choose another path")


def check_suffix(target: Path, *, is_directory: bool, besides: str = "") -> None:
    """Raises RequestError where a name says another kind than the checkpoint that will be written there: for a file,
    any suffix that torch.save's have not, for a directory, any that a kind of file has. `besides` is one that it may
    have all the same.
    """
    suffix = target.suffix.lower()
    if suffix == besides.lower():
        return
    is_wrong = _is_of_files(suffix) if is_directory else SUFFIX.fullmatch(suffix) and suffix not in ARCHIVES
    if is_wrong:
        what = "a directory" if is_directory else f"a file of torch.save ({listing(ARCHIVES)}, or none)"
        raise RequestError(f"{target}: its suffix says another kind, expected a name for {what}; choose another one")


def _is_of_files(suffix: str) -> bool:
    known = mimetypes.MimeTypes()
    known_endings = {*known.types_map[False], *known.types_map[True], *known.encodings_map}
    return suffix in (*ARCHIVES, *OTHERS) or suffix in known_endings
