"""Processes that are started in hundredths of a second: forks of one that has the heavy libraries loaded already.

They have an id, arguments, an environment, streams and signals of their own, as those of `python -m MODULE` have. Where
the start itself is what is tested (what it imports, what libraries say, what torchrun does), `subprocess` starts one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.helpers.paths import ROOT

LIBRARIES = [
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "transformers.models.gpt2.modeling_gpt2",
    "accelerate.utils",
    "lightning",
]
LIMIT = 240.0  # seconds: far more than anything here takes on a busy machine


@cache
def _loaded() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


class Started:
    """`python -m MODULE ARGUMENTS` in a process group of its own; what it says goes to PATH.out and PATH.err."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        directory: Path = ROOT,
        streams: Path | None = None,
    ) -> None:
        work = (module, list(arguments), {**os.environ, **(environment or {})}, directory, streams)
        self._process = _loaded().Process(target=_run, args=work, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, of a killed process minus the signal's number; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = LIMIT) -> int:
        """The exit code, when the process has ended."""
        self._process.join(timeout)
        code = self.poll()
        assert code is not None, f"process {self.pid} has not ended in {timeout} seconds"
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _run(module: str, arguments: list[str], environment: dict[str, str], directory: Path, streams: Path | None) -> None:
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        path = streams.with_suffix(suffix) if streams else Path(os.devnull)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [module, *arguments]
    sys.path.insert(0, str(directory))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def completed(
    module: str,
    arguments: Sequence[str],
    environments: Sequence[Mapping[str, str]] = ({},),
    directory: Path = ROOT,
) -> list[subprocess.CompletedProcess[str]]:
    """One process an environment, all at once; their exit codes and what they said, when all have ended."""
    with TemporaryDirectory() as temporary:
        paths = [Path(temporary, str(number)) for number in range(len(environments))]
        pairs = zip(environments, paths, strict=True)
        running = [Started(module, arguments, one, directory, path) for one, path in pairs]
        codes = [one.wait() for one in running]
        said = [[path.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".out", ".err")] for path in paths]
    return [
        subprocess.CompletedProcess([module, *arguments], code, *texts) for code, texts in zip(codes, said, strict=True)
    ]


def ranks(count: int) -> list[dict[str, str]]:
    """The variables that torchrun sets for the processes of one run, and one thread each."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def together(count: int, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """The command in several processes, as torchrun would start them."""
    return completed("ckptgrow", arguments, ranks(count))
