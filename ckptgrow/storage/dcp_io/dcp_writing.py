"""Writing through `torch.distributed.checkpoint`, a few megabytes at a time, each process its share."""

from __future__ import annotations

import io
import types
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from ckptgrow.distributed import Processes
from ckptgrow.progress import Advance
from ckptgrow.storage.pickles.opaque_pickles import pickler_of
from ckptgrow.storage.tensors import LazyTensor, chunks, is_lazy, whole
from ckptgrow.storage.tree import Tree

PIECE_BYTES = 64 * 2**20  # a block of a tensor in the file; as much of it as is in memory at once


def write(tree: Mapping[str, Tree], path: Path, processes: Processes, advance: Advance) -> None:
    """Writes a nested tree whose tensors are lazy; every process writes its blocks, and all must call this."""
    planner = RowPlanner(processes, advance)
    writer = FileSystemWriter(path, sync_files=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns where one process writes alone
        try:
            save(dict(tree), storage_writer=writer, planner=planner, no_dist=processes.count == 1)
        except CheckpointException as error:
            # torch wraps what any process met, signals too, in a BaseException of its own
            raise error.failures[min(error.failures)][0] from error


class RowPlanner(DefaultSavePlanner):
    """Plans blocks of rows, dealt out to the processes in turns; their data is made when it is asked for."""

    def __init__(self, processes: Processes, advance: Advance) -> None:
        super().__init__()
        self._processes = processes
        self._advance = advance

    def create_local_plan(self) -> SavePlan:
        """Blocks of this process, and on the first process the objects."""
        items: list[WriteItem] = []
        turn = 0
        for name, value in self.state_dict.items():
            if not is_lazy(value):
                if self._processes.rank == 0:
                    items.append(WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO))
                continue
            for start, stop in list(chunks(value, PIECE_BYTES)) or [(0, value.shape[0])]:
                if turn % self._processes.count == self._processes.rank:
                    items.append(_block(name, value, start, stop))
                turn += 1
        self.plan = SavePlan(items, planner_data=self.mappings)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        """A block's rows, or an object's bytes."""
        value = self.state_dict[write_item.index.fqn]
        if write_item.tensor_data is None:
            stream = io.BytesIO()
            torch.save(value, stream, pickle_module=types.SimpleNamespace(__name__=__name__, Pickler=pickler_of(whole)))
            return stream
        chunk = write_item.tensor_data.chunk
        start = chunk.offsets[0] if chunk.offsets else 0
        rows = value.rows(start, start + (chunk.sizes[0] if chunk.sizes else 1)).contiguous()
        self._advance(rows.numel() * rows.element_size())
        # a view would be saved with the whole storage that it looks into
        return rows if rows.untyped_storage().nbytes() == rows.numel() * rows.element_size() else rows.clone()


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
