"""How many processes share a run: as many as the launcher started, which options may not contradict; and how processes
that are started here never outlive this one.

A launcher starts the command several times. Each process must know of the others, or it would train a run of its own.

Source: torch, `torch.distributed.run` (LOCAL_WORLD_SIZE, WORLD_SIZE); Slurm, `srun` (SLURM_STEP_NUM_TASKS,
SLURM_STEP_NUM_NODES); Open MPI and MPICH, `mpirun` (OMPI_COMM_WORLD_SIZE, PMI_SIZE).
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Mapping

from ckptgrow.errors import RequestError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STARTED_BY_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def processes_of(environment: Mapping[str, str], devices: int | None, nodes: int | None) -> tuple[int, int]:
    """The number of processes on each node, and of nodes: as a launcher started them, else as asked for, else one.

    Raises RequestError where a launcher started other numbers than were asked for, or a run cannot use the launcher.
    """
    started = _started(environment)
    if started is None:
        return devices or 1, nodes or 1
    launcher, count, num_nodes = started
    on_each = count // num_nodes
    for option, asked, found in (("devices", devices, on_each), ("nodes", nodes, num_nodes)):
        if asked is not None and asked != found:
            raise RequestError(
                f"⟦{option} {asked}⟧: {launcher} started {on_each} processes on each of {num_nodes} nodes, expected "
                f"⟦{option} {found}⟧; leave it out"
            )
    return on_each, num_nodes


def _started(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    """A launcher, how many processes it started, and on how many nodes; None where there is none."""
    if "RANK" in environment and _number(environment, "WORLD_SIZE") > 1:
        count = _number(environment, "WORLD_SIZE")
        return "torchrun", count, max(1, count // (_number(environment, "LOCAL_WORLD_SIZE") or count))
    if _number(environment, "SLURM_STEP_NUM_TASKS") > 1:
        return "srun", _number(environment, "SLURM_STEP_NUM_TASKS"), _number(environment, "SLURM_STEP_NUM_NODES") or 1
    mpi = next((name for name in STARTED_BY_MPI if _number(environment, name) > 1), None)
    if mpi is not None:
        raise RequestError(
            f"{environment[mpi]} processes were started by mpirun ({mpi}), each of which would train alone; use "
            "torchrun, or one process with ⟦devices N⟧"
        )
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdigit() else 0


def dies_with_parent() -> Callable[[], None]:
    """Called in a process that this one starts, makes the kernel kill it where this one dies (on Linux)."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl  # looked up before a fork
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
