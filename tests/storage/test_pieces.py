"""Blocks of distributed checkpoints: what torch saves is found without unpickling, and all else by unpickling."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from ckptgrow.errors import CheckpointError
from ckptgrow.storage.dcp_io import dcp_pieces
from ckptgrow.storage.dcp_io.dcp_pieces import Piece
from ckptgrow.storage.tensors import whole

BEFORE = b"what stands before it"
PLAIN = [
    torch.arange(24.0).reshape(4, 6),
    torch.tensor(7.0),
    torch.arange(5, dtype=torch.int64),
    torch.ones(2, 3, 4, dtype=torch.bfloat16),
]
OTHERS = [torch.arange(24.0).reshape(4, 6).T, torch.arange(40.0)[8:32].reshape(4, 6), torch.zeros(0, 3)]


def piece_of(path: Path, tensor: torch.Tensor) -> Piece:
    """A block as torch saves it, somewhere in a file."""
    stream = io.BytesIO()
    torch.save(tensor, stream)
    path.write_bytes(BEFORE + stream.getvalue() + b"and behind")
    return Piece(
        start=(0,) * tensor.dim(),
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
        path=path,
        offset=len(BEFORE),
        length=len(stream.getvalue()),
    )


@pytest.mark.parametrize("tensor", PLAIN, ids=lambda one: str(tuple(one.shape)))
def test_what_torch_saves_of_a_plain_tensor_is_found_without_unpickling(
    tmp_path: Path, tensor: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = piece_of(tmp_path / "file", tensor)
    expected = piece._unpickled()
    monkeypatch.delattr(dcp_pieces.torch, "load")
    assert piece.stored == expected
    assert torch.equal(whole(piece.stored), tensor)


@pytest.mark.parametrize("tensor", OTHERS, ids=lambda one: str(tuple(one.shape)))
def test_views_of_other_tensors_and_empty_ones_are_unpickled(tmp_path: Path, tensor: torch.Tensor) -> None:
    piece = piece_of(tmp_path / "file", tensor)
    assert piece._as_torch_saves() is None
    assert torch.equal(whole(piece.stored), tensor)


def test_a_change_of_any_byte_but_the_data_leaves_it_to_unpickling(tmp_path: Path) -> None:
    path = tmp_path / "file"
    piece = piece_of(path, torch.arange(24.0).reshape(4, 6))
    data, (first, size) = path.read_bytes(), (piece.stored.offset, 96)
    for place in range(piece.offset, piece.offset + piece.length):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert (piece._as_torch_saves() is None) == (not first <= place < first + size), place


def test_a_piece_that_the_metadata_says_otherwise_is_refused(tmp_path: Path) -> None:
    right = piece_of(tmp_path / "file", torch.arange(24.0).reshape(4, 6))
    wrong = Piece(
        start=(0, 0), shape=(6, 4), dtype=right.dtype, path=right.path, offset=right.offset, length=right.length
    )
    with pytest.raises(CheckpointError, match=r"holds a block of shape \[4, 6\]"):
        _ = wrong.stored
