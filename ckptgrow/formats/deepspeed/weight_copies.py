"""A `model.safetensors` beside DeepSpeed's files: the same weights again, for `from_pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ckptgrow.formats.deepspeed.model_files import Written
from ckptgrow.formats.huggingface import SAFETENSORS, once, weights_from
from ckptgrow.storage.files.safetensor_files import INDEX_SUFFIX, outlines
from ckptgrow.storage.files.tensor_writing import FileLayout
from ckptgrow.storage.tensors import LazyTensor


@dataclass(frozen=True)
class Copies:
    """The files, their dtype and metadata, and whether tied tensors are in them under each of their names."""

    files: frozenset[str]
    dtype: torch.dtype
    metadata: Mapping[str, str]
    has_twins: bool

    @classmethod
    def beside(cls, path: Path, tensors: Mapping[str, LazyTensor]) -> Copies | None:
        """Those in a directory, where they hold the very tensors of the state in one dtype; others stay behind."""
        name = next((one for one in (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX) if (path / one).is_file()), None)
        if name is None:
            return None
        copies, files, metadata = weights_from(path, name)
        found, dtypes = _shapes(copies), {tensor.dtype for tensor in copies.values()}
        if found not in (_shapes(tensors), _shapes(once(tensors))) or len(dtypes) != 1:
            return None
        return cls(frozenset(files), dtypes.pop(), metadata, found == _shapes(tensors))

    def outlines(self, written: Written, path: Path, max_shard_bytes: int) -> list[FileLayout]:
        """The files of what is written, to be filled."""
        metadata = {"format": "pt", **self.metadata}
        copies = written.copies(self.dtype)
        return outlines(path, "model", copies if self.has_twins else once(copies), max_shard_bytes, metadata)


def _shapes(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
