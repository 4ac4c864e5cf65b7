"""Checkpoints of other worlds than PyTorch's, and files that are part of a checkpoint: known by their names, and
refused with the way to one that is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ckptgrow.errors import CheckpointError

THROUGH_TRANSFORMERS = "load it with transformers (from_flax or from_tf up to version 4) and save_pretrained"
ORBAX = ("an Orbax checkpoint of JAX", "write its arrays by PyTorch's names into safetensors")
GGUF = ("a GGUF model for inference, without training state", "grow the model that it was made from")
# by the names of entries of a directory
DIRECTORIES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("_CHECKPOINT_METADATA", "manifest.ocdbt"), ORBAX),
    "flax_model.msgpack": ("a Flax model", THROUGH_TRANSFORMERS),
    "tf_model.h5": ("a TensorFlow model", THROUGH_TRANSFORMERS),
    "model.ckpt-*.index": ("a TensorFlow checkpoint", THROUGH_TRANSFORMERS),
    "saved_model.pb": ("a TensorFlow model", THROUGH_TRANSFORMERS),
    "*.gguf": GGUF,
    "mp_rank_*/model_optim_rng.pt": (
        "one of Megatron's legacy checkpoints, a file for each tensor- and pipeline-parallel rank",
        "load it with Megatron-LM and save it as torch_dist (its ckpt_convert_format does so)",
    ),
    "iter_*/mp_rank_*/model_optim_rng.pt": (
        "a run of Megatron's legacy checkpoints, a file for each tensor- and pipeline-parallel rank",
        "load one with Megatron-LM and save it as torch_dist (its ckpt_convert_format does so)",
    ),
}
SUFFIXES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys((".h5", ".hdf5", ".keras"), ("a Keras or TensorFlow model", THROUGH_TRANSFORMERS)),
    ".msgpack": ("a Flax model", THROUGH_TRANSFORMERS),
    ".gguf": GGUF,
    **dict.fromkeys((".npz", ".npy"), ("NumPy's arrays", "save them by PyTorch's names with torch.save")),
    ".onnx": ("an ONNX graph", "grow the model that it was made from"),
    ".distcp": ("one part of a distributed checkpoint", "name the directory with its .metadata"),
}


def check_is_no_foreign_file(path: Path) -> None:
    """Raises CheckpointError for a file that its suffix says is none of torch.save's."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is not None and path.is_file():
        raise CheckpointError(f"{path}: is {found[0]}, expected a checkpoint of PyTorch; {found[1]}")


def check_is_no_foreign_directory(path: Path) -> None:
    """Raises CheckpointError for a directory that no format recognised, where its entries say whose it is."""
    for pattern, (what, way_out) in DIRECTORIES.items():
        if path.is_dir() and any(path.glob(pattern)):
            raise CheckpointError(f"{path}: is {what}, expected a checkpoint of PyTorch; {way_out}")
