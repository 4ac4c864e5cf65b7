"""Random damage to checkpoints, and what must hold whatever it is."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import ckptgrow
from ckptgrow.cli import run
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import trained_checkpoint

KINDS = ("lightning", "huggingface", "dcp", "accelerate", "fsdp")


@dataclass(frozen=True)
class Damage:
    """Bytes of one file changed (`flips`: places as shares of the size, with masks) and its end cut off."""

    file: int
    flips: tuple[tuple[float, int], ...]
    kept: float

    def apply(self, checkpoint: Path) -> str:
        """Damages a checkpoint in place; returns the damaged file's name."""
        files = [checkpoint] if checkpoint.is_file() else sorted(one for one in checkpoint.rglob("*") if one.is_file())
        path = files[self.file % len(files)]
        data = bytearray(path.read_bytes())
        for place, mask in self.flips:
            data[int(place * len(data))] ^= mask
        path.write_bytes(data[: int(self.kept * len(data))])
        return path.name


def originals(directory: Path) -> dict[str, Path]:
    """A whole checkpoint of every kind."""
    found = {kind: directory / kind for kind in KINDS} | {"lightning": directory / "a.ckpt"}
    model = perturbed_gpt2()
    trained_checkpoint(found["lightning"], model, num_steps=1)
    for kind in ("huggingface", "dcp"):
        ckptgrow.convert(found["lightning"], found[kind], kind, max_shard_bytes=20_000)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, token_batches(1))
    state = get_optimizer_state_dict(model, optimizer)
    for kind in ("accelerate", "fsdp"):
        found[kind].mkdir()
        model.config.to_json_file(found[kind] / "config.json")
        torch.save(torch.optim.lr_scheduler.LinearLR(optimizer).state_dict(), found[kind] / "scheduler.bin")
    torch.save(model.state_dict(), found["accelerate"] / "pytorch_model_fsdp.bin")
    torch.save(state, found["accelerate"] / "optimizer.bin")
    dcp.save({"model": model.state_dict()}, checkpoint_id=found["fsdp"] / "pytorch_model_fsdp_0", no_dist=True)
    dcp.save({"optimizer": state}, checkpoint_id=found["fsdp"] / "optimizer_0", no_dist=True)
    return found


def consequence(original: Path, damage: Damage, directory: Path) -> tuple[int, str]:
    """The exit code and stderr of growing a damaged copy; raises AssertionError where anything is left behind."""
    copy, out = directory / f"copy-{original.name}", directory / "out"
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(original, copy) if original.is_dir() else shutil.copy(original, copy)
    damage.apply(copy)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = run(["width", str(copy), str(out), "--allow-nonfinite"])
    left = sorted(one.name for one in directory.iterdir())
    assert left == sorted([copy.name] + [out.name] * (code == 0)), f"{damage}: {left}"
    return code, errors.getvalue()
