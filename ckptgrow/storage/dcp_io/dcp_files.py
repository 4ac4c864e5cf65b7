"""The data files of torch's distributed checkpoints, filled in place: blocks are made when they are written and freed
after, and blocks that hold the same rows are made once.

torch's own writer makes each block whole, and keeps the last one of every tensor until the file ends.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ckptgrow.progress import Advance
from ckptgrow.storage.archives.tensor_archives import TensorArchive, tensor_archive
from ckptgrow.storage.files.tensor_writing import Extent, FileLayout, fill
from ckptgrow.storage.tensors import LazyTensor

RowsOf = Callable[[WriteItem], LazyTensor]
_STORAGE_INFO = vars(filesystem)["_StorageInfo"]  # what torch's own reader finds in the metadata


class PieceWriter(FileSystemWriter):
    """Writes as torch's writer does, one file a process; `rows_of` gives the rows of a block, the same object for
    blocks that hold the same, and `advance` is told the bytes of every piece written.
    """

    def __init__(self, path: Path, rows_of: RowsOf, advance: Advance) -> None:
        super().__init__(path, sync_files=True)
        self._rows_of = rows_of
        self._advance = advance

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Gives each process the name of its file."""
        return [replace(plan, storage_data=f"__{number}_0.distcp") for number, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the file of this process; the result says where in it every entry lies."""
        name = str(plan.storage_data)
        path = Path(self.path) / name
        results: list[WriteResult] = []
        places: dict[int, list[tuple[int, TensorArchive]]] = {}
        tensors: dict[int, LazyTensor] = {}
        with path.open("wb") as file:
            position = 0
            for item in sorted(plan.items, key=lambda one: one.tensor_data is not None):  # objects first, as torch does
                start = position
                if item.tensor_data is None:
                    data = planner.resolve_data(item)
                    assert isinstance(data, io.BytesIO)
                    position += file.write(data.getbuffer())
                else:
                    rows = self._rows_of(item)
                    archive = tensor_archive(tuple(rows.shape), rows.dtype)
                    tensors[id(rows)] = rows
                    places.setdefault(id(rows), []).append((start, archive))
                    file.write(archive.head)
                    position += archive.length
                    file.seek(position)
                length = position - start
                results.append(WriteResult(item.index, length, _STORAGE_INFO(name, start, length)))
            file.truncate(position)
        fill([_layout(path, [(tensors[key], found) for key, found in places.items()])], self._advance)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done


def _layout(path: Path, blocks: Sequence[tuple[LazyTensor, Sequence[tuple[int, TensorArchive]]]]) -> FileLayout:
    """A file whose archives lack their data and what stands behind it: for each rows to make, where their archives
    begin.
    """

    def finish(file: BinaryIO, checksums: Sequence[int]) -> None:
        for (_, places), checksum in zip(blocks, checksums, strict=True):
            for start, archive in places:
                end = start + len(archive.head) + archive.num_bytes
                os.pwrite(file.fileno(), archive.tail_with(checksum), end)

    extents: list[Extent] = []
    for tensor, places in blocks:
        first, *others = (start + len(archive.head) for start, archive in places)
        extents.append(Extent(tensor, first, others))
    return FileLayout(path, extents, finish)
