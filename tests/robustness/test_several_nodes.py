"""Two launches of torchrun, as on two machines that share a directory; a process of one of them is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import ckptgrow
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import save_lightning

NODES, A_NODE = 2, 2
STARTED, STOPPED = 120.0, 60.0  # seconds: four processes import torch; what is left to write takes one or two


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distributed checkpoint, large enough that writing what it grows to takes a while."""
    directory = tmp_path_factory.mktemp("source")
    model = perturbed_gpt2(n_embd=240, n_inner=960, n_layer=6)
    ckptgrow.convert(save_lightning(directory / "small.ckpt", model), directory / "small", "dcp")
    return directory / "small"


def launched(source: Path, target: Path, streams: Path) -> list[subprocess.Popen[bytes]]:
    """The launches of both nodes, whose errors go to files by the node's number."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    words = [f"--nnodes={NODES}", f"--nproc-per-node={A_NODE}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    growth = ["-m", "ckptgrow", "width", str(source), str(target), "--factor", "4", "--noise", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found: list[subprocess.Popen[bytes]] = []
    for node in range(NODES):
        line = [sys.executable, "-m", "torch.distributed.run", *words, f"--node-rank={node}", *growth]
        with (streams / str(node)).open("wb") as errors:
            found.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=errors, env=environment))
    return found


def process_of(rank: int, launches: Sequence[subprocess.Popen[bytes]]) -> int:
    """The process that torchrun started with a rank, among the children of the launches."""
    for launch in launches:
        for child in Path(f"/proc/{launch.pid}/task/{launch.pid}/children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError(f"no process of rank {rank}")


def wait_for_data(target: Path, launches: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits until the first file of data is there."""
    limit = time.monotonic() + STARTED
    while not any(target.parent.glob(f".{target.name}.*.partial/*.distcp")):
        assert time.monotonic() < limit
        assert all(one.poll() is None for one in launches)
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 3])
def test_where_one_process_is_killed_all_stop_with_one_line_and_the_next_run_is_whole(
    tmp_path: Path, source: Path, rank: int
) -> None:
    target, streams = tmp_path / "shared" / "grown", tmp_path / "streams"
    target.parent.mkdir()
    streams.mkdir()
    launches = launched(source, target, streams)
    wait_for_data(target, launches)
    os.kill(process_of(rank, launches), signal.SIGKILL)
    began = time.monotonic()
    assert all(one.wait(timeout=STOPPED) != 0 for one in launches)
    assert time.monotonic() - began < STOPPED
    assert not target.exists()
    own = [line for file in streams.iterdir() for line in file.read_text().splitlines() if "ckptgrow: " in line]
    assert own
    assert all("another process has failed" in line for line in own), own  # of those that torchrun has not ended before
    assert all(one.wait(timeout=STARTED) == 0 for one in launched(source, target, streams))
    assert [one.name for one in target.parent.iterdir()] == ["grown"]
    ckptgrow.width(source, tmp_path / "alone", factor=4, noise=1)
    sums = [ckptgrow.inspect(one, check=True).sha256 for one in (tmp_path / "alone", target)]
    assert sums[0] == sums[1]
