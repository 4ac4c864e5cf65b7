"""The `.metadata` of torch's distributed checkpoints: unpickled with nothing but its own classes made.

Other classes, which savers of the user's may leave in it, are inert stand-ins (see `opaque`): nothing here needs them.
`torch.distributed.checkpoint` itself would unpickle it without any restriction.
"""

from __future__ import annotations

import pathlib
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata

from ckptgrow.errors import CheckpointError, UnsafePickleError
from ckptgrow.storage.pickles.opaque import Named, Opaque
from ckptgrow.storage.pickles.opaque_pickles import (
    BY_NAME,
    PYTHON_UNPICKLER,
    Unpickling,
    arguments_on,
    is_refused,
    reader_with,
    refuse_instruction,
)

_CLASS = re.compile(r"_?[A-Z]\w*")
LARGEST_METADATA = 512 * 2**20  # bytes
_RECORDS: tuple[type, ...] = (
    metadata.Metadata,
    metadata.TensorStorageMetadata,
    metadata.BytesStorageMetadata,
    metadata.ChunkStorageMetadata,
    metadata.TensorProperties,
    metadata.MetadataIndex,
    metadata.StorageMeta,
    vars(filesystem)["_StorageInfo"],
)
_MEMORY_FORMAT = vars(metadata)["_MEM_FORMAT_ENCODING"]  # an enum
_CALLED: tuple[Callable[..., object], ...] = (
    torch.Size,
    _MEMORY_FORMAT,
    torch.serialization._get_layout,  # pyright: ignore[reportPrivateUsage]
    pathlib.PosixPath,
    pathlib.PurePosixPath,
)
_AS_TORCHS = {"olmo_core.distributed.checkpoint.filesystem._StorageInfo"}  # a class of its own with torch's fields
_MADE: tuple[object, ...] = (*_RECORDS, torch.Size)


def read_metadata(path: Path) -> Metadata:
    """The metadata of a distributed checkpoint, from its file.

    Raises UnsafePickleError where it names anything but metadata's classes, CheckpointError where it is damaged.
    """
    if not path.is_file() or path.stat().st_size > LARGEST_METADATA:
        raise CheckpointError(f"{path}: is not a plain file of at most {LARGEST_METADATA} bytes; copy it again")
    try:
        with path.open("rb") as file:
            found = _Reader(file).load()
    except CheckpointError as error:
        raise UnsafePickleError(f"{path}: {error.message.marked}") from error
    except Exception as error:  # a damaged pickle may fail in any way; nothing but records was built
        raise CheckpointError(
            f"{path}: damaged, expected the metadata of a distributed checkpoint ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
        raise CheckpointError(f"{path}: is not the metadata of a distributed checkpoint; copy it again")
    return found


def _allowed() -> Mapping[str, object]:
    dtypes = {str(one): one for one in vars(torch).values() if isinstance(one, torch.dtype)}
    alike = dict.fromkeys(_AS_TORCHS, vars(filesystem)["_StorageInfo"])
    return dtypes | alike | {f"{one.__module__}.{one.__qualname__}": one for one in (*_RECORDS, *_CALLED)}


def _member(of: object, name: object) -> object:
    """What stands for `getattr`, by which Python 3.11.0 to 3.11.3 write members of enums: these alone."""
    if of is _MEMORY_FORMAT and name in _MEMORY_FORMAT.__members__:
        return _MEMORY_FORMAT[name]
    if isinstance(of, Named):
        return of(name)
    raise CheckpointError("names code that ckptgrow does not run (builtins.getattr), expected metadata's classes")


def _find_class(reader: Unpickling, module: str, name: str) -> object:
    if f"{module}.{name}" in BY_NAME:
        return _member
    allowed = _allowed()
    if f"{module}.{name}" in allowed:
        return allowed[f"{module}.{name}"]
    is_of_distributed = module.startswith("torch.distributed.") and _CLASS.fullmatch(name)
    if is_refused(module, name) and not is_of_distributed:
        raise CheckpointError(f"names code that ckptgrow does not run ({module}.{name}), expected metadata's classes")
    return Named(name, (Opaque,), {"named": (module, name)})


def _load_reduce(reader: Unpickling) -> None:
    arguments = arguments_on(reader)
    called = reader.stack[-1]
    if not callable(called) or not (isinstance(called, Named) or called is _member or called in _CALLED):
        raise pickle.UnpicklingError(f"calls {called!r}")
    reader.stack[-1] = called(*arguments)


def _load_newobj(reader: Unpickling) -> None:
    arguments = arguments_on(reader)
    made = reader.stack.pop()
    if not isinstance(made, Named) and made not in _MADE:
        raise pickle.UnpicklingError(f"makes {made!r}")
    reader.append(cast(Any, made).__new__(made, *arguments))


def _load_build(reader: Unpickling) -> None:
    state = reader.stack.pop()
    made = reader.stack[-1]
    if isinstance(made, Opaque):
        made.state = state
    elif isinstance(made, metadata.TensorProperties):
        made.__setstate__(state)
    elif type(made) in _RECORDS and isinstance(state, dict):
        vars(made).update(state)
    else:
        raise pickle.UnpicklingError(f"changes {type(made)!r}")


_REFUSED = (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4)
_INSTRUCTIONS = {
    **PYTHON_UNPICKLER.dispatch,
    **{code[0]: refuse_instruction for code in _REFUSED},
    pickle.REDUCE[0]: _load_reduce,
    pickle.NEWOBJ[0]: _load_newobj,
    pickle.BUILD[0]: _load_build,
}
_Reader = reader_with(_INSTRUCTIONS, _find_class)
