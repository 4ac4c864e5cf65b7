"""Checkpoints that are none of PyTorch's, and parts of one: one line that says whose it is and what to do; exit 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptgrow.cli import run

FILES = {
    "model.h5": "a Keras or TensorFlow model",
    "model.keras": "a Keras or TensorFlow model",
    "flax_model.msgpack": "a Flax model",
    "model.gguf": "a GGUF model for inference",
    "params.npz": "NumPy's arrays",
    "__0_0.distcp": "one part of a distributed checkpoint",
}
DIRECTORIES = {
    "orbax": (("_CHECKPOINT_METADATA", "state/manifest.ocdbt"), "an Orbax checkpoint"),
    "flax": (("config.json", "flax_model.msgpack"), "a Flax model"),
    "tensorflow": (("checkpoint", "model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"), "a TensorFlow checkpoint"),
    "gguf": (("model.gguf",), "a GGUF model"),
    "rank": (("mp_rank_00/model_optim_rng.pt",), "one of Megatron's legacy checkpoints"),
    "run": (
        ("latest_checkpointed_iteration.txt", "iter_0000005/mp_rank_00_000/model_optim_rng.pt"),
        "a run of Megatron's legacy checkpoints",
    ),
}


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89something" * 20)
    return path


def assert_refused(path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["inspect", str(path)], ["width", str(path), str(path.parent / "out"), "--factor", "2"]):
        assert run(line) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert f"is {what}" in told and "expected a checkpoint of PyTorch; " in told
    assert not (path.parent / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_world_is_called_by_its_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(made(tmp_path / name), FILES[name], capsys)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_of_another_world_is_called_by_its_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entries, what = DIRECTORIES[name]
    for entry in entries:
        made(tmp_path / name / entry)
    assert_refused(tmp_path / name, what, capsys)
