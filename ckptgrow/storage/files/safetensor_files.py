"""Files of safetensors: read as lazy tensors, laid out to be filled, in one file or in shards.

Source: the format's specification, huggingface/safetensors (README, "Format"): 8 bytes little-endian header length,
a JSON header of at most 100 MB that maps names to dtype, shape and data_offsets, then the data without holes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from ckptgrow.addresses.stand_ins import described
from ckptgrow.errors import CheckpointError
from ckptgrow.storage.files.json_files import read_json, write_json
from ckptgrow.storage.files.tensor_writing import Extent, FileLayout
from ckptgrow.storage.tensors import LazyTensor, Stored, num_bytes

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
INDEX_SUFFIX = ".index.json"
METADATA = "__metadata__"


class Entry(TypedDict):
    """A tensor in the header: its dtype by name, its shape, where its bytes begin and end in the data."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def read_file(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """One file's tensors, in the order of their data, and its metadata.

    The library judges whether the file is whole and well formed; raises CheckpointError where it is not.
    """
    try:
        with safe_open(described(path), framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a whole safetensors file ({error}); copy it again") from error
    with described(path).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        parsed = json.loads(file.read(length))
    metadata: dict[str, str] = parsed.pop(METADATA, {})
    header: dict[str, Entry] = parsed
    unknown = {entry["dtype"] for entry in header.values()} - set(DTYPES)
    if unknown:
        raise CheckpointError(f"{path}: has tensors of dtype {sorted(unknown)[0]}, expected {', '.join(DTYPES)}")
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
    return {name: _stored(path, 8 + length, entry) for name, entry in ordered}, metadata


def read_index(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors of all shards that an index names.

    Raises CheckpointError for an index that is malformed, leads out of its directory, or contradicts its shards.
    """
    metadata: dict[str, str] = {}

    def read(shard: Path) -> dict[str, LazyTensor]:
        found, of_shard = read_file(shard)
        metadata.update(of_shard)
        return found

    return read_shards(path, read), metadata


def read_shards(path: Path, read: Callable[[Path], Mapping[str, LazyTensor]]) -> dict[str, LazyTensor]:
    """The tensors of all files that an index names, each read by `read`, in the index's order.

    Raises CheckpointError as `read_index` does.
    """
    listed = read_json(path).get("weight_map")
    entries = listed.items() if isinstance(listed, dict) else ()
    weight_map = {name: shard for name, shard in entries if isinstance(shard, str)}
    if weight_map != listed:
        raise CheckpointError(f"{path}: is not an index of shards, expected a weight_map from tensors to files")
    tensors: dict[str, LazyTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if shard != Path(shard).name or shard in ("", ".", ".."):
            raise CheckpointError(f"{path}: names shard {shard!r}, expected a file beside the index")
        if not (path.parent / shard).is_file():
            raise CheckpointError(f"{path}: names shard {shard}, which is missing; copy it too")
        found = read(path.parent / shard)
        named = {name for name, where in weight_map.items() if where == shard}
        if named != set(found):
            stray = sorted(named ^ set(found))[0]
            raise CheckpointError(f"{path}: and shard {shard} disagree on tensor {stray}; copy both again")
        tensors |= found
    return {name: tensors[name] for name in weight_map}


def outlines(
    directory: Path, stem: str, tensors: Mapping[str, LazyTensor], max_bytes: int, metadata: Mapping[str, str]
) -> list[FileLayout]:
    """Writes `stem.safetensors`, or shards of at most `max_bytes` with an index, without the tensors' data, which is to
    be filled.
    """
    shards = _sharded(tensors, max_bytes)
    if len(shards) == 1:
        return [outline(directory / f"{stem}.safetensors", shards[0], metadata)]
    names = [f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    index = {
        "metadata": {"total_size": sum(num_bytes(tensor) for tensor in tensors.values())},
        "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
    }
    write_json(directory / f"{stem}.safetensors{INDEX_SUFFIX}", index, sort_keys=True)
    return [outline(directory / name, shard, metadata) for name, shard in zip(names, shards, strict=True)]


def outline(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> FileLayout:
    """Writes one file without its tensors' data, which is to be filled."""
    header: dict[str, Entry] = {}
    # widest dtypes first, as the specification asks for the sake of alignment
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    offset = 0
    for name in order:
        tensor = tensors[name]
        stop = offset + num_bytes(tensor)
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps({METADATA: dict(metadata), **header} if metadata else header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(start + offset)
    return FileLayout(path, [Extent(tensors[name], start + header[name]["data_offsets"][0]) for name in order])


def _sharded(tensors: Mapping[str, LazyTensor], max_bytes: int) -> Sequence[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + num_bytes(tensor) > max_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += num_bytes(tensor)
    return shards


def _stored(path: Path, data_start: int, entry: Entry) -> Stored:
    shape = tuple(entry["shape"])
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    offset = data_start + entry["data_offsets"][0]
    return Stored(
        path=path, offset=offset, shape=shape, dtype=DTYPES[entry["dtype"]], stride=tuple(strides[: len(shape)])
    )
