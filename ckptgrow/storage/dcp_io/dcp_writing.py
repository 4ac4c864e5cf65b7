"""Writing through `torch.distributed.checkpoint`, a few megabytes at a time, each process its share."""

from __future__ import annotations

import io
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from ckptgrow.distributed import Processes
from ckptgrow.progress import Advance
from ckptgrow.storage.dcp_io.dcp_files import PieceWriter
from ckptgrow.storage.pickles.opaque_pickles import pickler_of
from ckptgrow.storage.stacks import Stack
from ckptgrow.storage.tensors import LazyTensor, Made, Repeated, Zeros, is_lazy, num_bytes, whole
from ckptgrow.storage.tree import Tree

PIECE_BYTES = 64 * 2**20  # a block of a tensor in the file


def write(tree: Mapping[str, Tree], path: Path, processes: Processes, advance: Advance) -> None:
    """Writes a nested tree whose tensors are lazy; every process writes its blocks, and all must call this."""
    planner = RowPlanner(processes)
    writer = PieceWriter(path, planner.rows_of, advance)
    with processes.in_step(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns where one process writes alone
        try:
            save(dict(tree), storage_writer=writer, planner=planner, no_dist=processes.count == 1)
        except CheckpointException as error:
            # torch wraps what any process met, signals too, in a BaseException of its own
            raise error.failures[min(error.failures)][0] from error


class RowPlanner(DefaultSavePlanner):
    """Plans blocks of rows; each is dealt to the process that has the least so far, and made when it is asked for.

    Blocks with the same rows fall to the same process, which makes these once.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes = processes
        self._rows: dict[tuple[int, int, int], LazyTensor] = {}

    def create_local_plan(self) -> SavePlan:
        """Blocks of this process, and on the first process the objects."""
        items: list[WriteItem] = []
        loads = [0] * self._processes.count  # bytes
        for name, value in self.state_dict.items():
            if not is_lazy(value):
                if self._processes.rank == 0:
                    items.append(WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO))
                continue
            times, period = _period_of(value)
            for start, stop in _cuts(value, period):
                turn = loads.index(min(loads))
                loads[turn] += num_bytes(value) * (stop - start) // max(1, period)
                if turn == self._processes.rank:
                    starts = (start + copy * period for copy in range(times))
                    items += [_block(name, value, first, first + stop - start) for first in starts]
        self.plan = SavePlan(items, planner_data=self.mappings)
        return self.plan

    def rows_of(self, write_item: WriteItem) -> LazyTensor:
        """A block's rows; the same object for blocks that hold the same."""
        value: LazyTensor = self.state_dict[write_item.index.fqn]
        assert write_item.tensor_data is not None
        chunk = write_item.tensor_data.chunk
        if tuple(chunk.sizes) == tuple(value.shape):
            return self._rows.setdefault((id(value), 0, -1), value)
        times, period = _period_of(value)
        tensor = value.old if times > 1 and isinstance(value, Repeated) else value
        start, length = chunk.offsets[0] % period, chunk.sizes[0]
        return self._rows.setdefault((id(tensor), start, length), _part(tensor, start, start + length))

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        """A block's rows, or an object's bytes."""
        if write_item.tensor_data is not None:
            return whole(self.rows_of(write_item))
        stream = io.BytesIO()
        module = types.SimpleNamespace(__name__=__name__, Pickler=pickler_of(whole))
        torch.save(self.state_dict[write_item.index.fqn], stream, pickle_module=module)
        return stream


def _period_of(tensor: LazyTensor) -> tuple[int, int]:
    """How many times a tensor's rows repeat, and how many there are; small tensors are one block, repeated or not."""
    if not tensor.shape:
        return 1, 1
    if isinstance(tensor, Repeated) and num_bytes(tensor) > PIECE_BYTES:
        return tensor.times, tensor.old.shape[0]
    return 1, tensor.shape[0]


def _cuts(tensor: LazyTensor, num_rows: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover the first rows of a tensor, of at most PIECE_BYTES where a row is not longer itself.

    Each but the last has as many rows as the largest power of two that fits, as blocks of the fingerprint have, so that
    a block is read by one process.
    """
    in_all = num_bytes(tensor)
    fit = PIECE_BYTES * (tensor.shape[0] if tensor.shape else 1) // in_all if in_all else num_rows
    step = num_rows if fit >= num_rows else 2 ** (max(1, fit).bit_length() - 1)
    for start in range(0, max(1, num_rows), max(1, step)):
        yield start, min(start + step, num_rows)


def _part(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    shape = (stop - start, *tensor.shape[1:])
    if isinstance(tensor, Zeros):
        return Zeros(shape, tensor.dtype)
    if isinstance(tensor, Stack):
        return Stack(tensor.stacked[start:stop])
    return Made(shape, tensor.dtype, lambda first, last: tensor.rows(start + first, start + last))


def _block(name: str, tensor: LazyTensor, start: int, stop: int) -> WriteItem:
    offsets = (start, *(0 for _ in tensor.shape[1:])) if tensor.shape else ()
    sizes = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
    return WriteItem(
        MetadataIndex(name, torch.Size(offsets)),
        WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)),
            TensorProperties(dtype=tensor.dtype),
            torch.Size(tensor.shape),
        ),
    )
