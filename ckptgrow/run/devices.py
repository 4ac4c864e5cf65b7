"""Where a run's training takes place: in this process, or in processes that a launcher starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckptgrow.errors import RequestError
from ckptgrow.train.launching import dies_with_parent

Launcher = Literal["lightning", "srun"]
POLL = 1.0  # seconds


@dataclass(frozen=True)
class Devices:
    """Processes or GPUs on each node, nodes, and who starts them: Lightning from the first one, or Slurm's srun."""

    on_each: int = 1
    nodes: int = 1
    launcher: Launcher = "lightning"

    @property
    def count(self) -> int:
        """On all nodes."""
        return self.on_each * self.nodes

    @property
    def options(self) -> Mapping[str, int]:
        """For `ckptgrow train`, where there are several."""
        return {} if self.count == 1 else {"devices": self.on_each, "nodes": self.nodes}

    def command(self, words: Sequence[str]) -> list[str]:
        """The processes that run a command's words together."""
        started = [sys.executable, "-m", *words]
        if self.launcher == "lightning":
            if self.nodes > 1:
                raise RequestError(
                    f"⟦nodes {self.nodes}⟧: expected ⟦launcher srun⟧ beside it, which starts all of them"
                )
            return started
        return ["srun", f"--nodes={self.nodes}", f"--ntasks-per-node={self.on_each}", *started]


def run_together(command: Sequence[str], heard: Callable[[], None]) -> int:
    """Runs a command to its end; `heard` is called every second. It never outlives this process (on Linux).

    What interrupts this process interrupts the command, whose exit code then says so.
    """
    died_with = dies_with_parent()
    with subprocess.Popen(list(command), start_new_session=True, preexec_fn=died_with) as process:  # noqa: PLW1509
        code = None
        while code is None:
            code = _heard_of(process)
            heard()
    return code


def _heard_of(process: subprocess.Popen[bytes]) -> int | None:
    """A second later: the exit code, or None where the command is still running."""
    try:
        return process.wait(POLL)
    except subprocess.TimeoutExpired:
        return None
    except KeyboardInterrupt:
        os.kill(process.pid, signal.SIGINT)
        return None
    except BaseException:  # the command line's own termination
        os.kill(process.pid, signal.SIGTERM)
        process.wait()
        raise
