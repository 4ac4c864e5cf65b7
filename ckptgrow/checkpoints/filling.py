"""Writing one lazy tensor to its place in a file, a few megabytes at a time."""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO

from ckptgrow.checkpoints.progress import Advance
from ckptgrow.checkpoints.tensors import LazyTensor, bytes_of, chunks, num_bytes
from ckptgrow.errors import CheckpointError


def fill(file: BinaryIO, tensor: LazyTensor, offset: int, advance: Advance) -> int:
    """Writes a tensor's data at `offset` bytes; `advance` is told the bytes of every piece. Returns the CRC-32.

    Raises CheckpointError where the tensor's rows are not as many bytes as its shape says.
    """
    checksum, position = 0, offset
    for start, stop in chunks(tensor):
        data = bytes_of(tensor.rows(start, stop))
        checksum = zlib.crc32(data, checksum)
        written = 0
        while written < len(data):
            written += os.pwrite(file.fileno(), data[written:], position + written)
        position += len(data)
        advance(len(data))
    if position - offset != num_bytes(tensor):
        raise CheckpointError(f"wrote {position - offset} bytes of a tensor, expected {num_bytes(tensor)}")
    return checksum
