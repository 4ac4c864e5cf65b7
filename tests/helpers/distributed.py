"""torch's distributed checkpoints as torch reads them, and the command in several processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.helpers.paths import ROOT


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a distributed checkpoint, as torch itself reads them."""
    merged = path.parent / f"{path.name}.merged.pt"
    dcp_to_torch_save(path, merged)
    tree = torch.load(merged, weights_only=True)
    merged.unlink()
    return {str(keys): value for keys, value in flat(tree)}


def flat(tree: Any, keys: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(keys, tree)]
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [one for key, value in children for one in flat(value, (*keys, key))]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def together(count: int, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """The command in several processes, with the variables that torchrun sets."""
    common = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "ckptgrow", *arguments],
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    done: list[subprocess.CompletedProcess[str]] = []
    for one in running:
        out, err = one.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(one.args, one.returncode, out, err))
    return done
