"""A run as a chain of Slurm jobs: a script for each of its jobs, each waiting for the one before it.

A script runs `ckptgrow run --only JOB`, so that what Slurm starts again goes on where it was. Training is one task a
device, started by srun; everything else is one task.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptgrow.data.directories import directories_in, spelled
from ckptgrow.errors import RequestError
from ckptgrow.run.devices import Devices
from ckptgrow.run.staged_run import Job, jobs_of
from ckptgrow.run.train_job import TrainJob
from ckptgrow.run.work import Work

FOLDER = "slurm"


@dataclass(frozen=True)
class Submitted:
    """A script, and the number that sbatch gave its job."""

    script: Path
    job: str
    number: str


def submit_chain(work: Work, file: Path) -> list[Submitted]:
    """Writes the scripts of all jobs that are still to be done, and hands them to sbatch; `file` has the plan.

    Raises RequestError where there is no sbatch, or it refuses.
    """
    folder = work.out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs_of(work.plan) if work.journal.result(job.name) is None]
    submitted: list[Submitted] = []
    for position, job in enumerate(left, start=1):
        script = folder / f"{position:02}-{job.name.replace('/', '-')}.sbatch"
        script.write_text(_script(job, work, file), encoding="utf-8")
        before = [f"--dependency=afterok:{submitted[-1].number}"] if submitted else []
        submitted.append(Submitted(script, job.name, _sbatch([*before, str(script)])))
    return submitted


def _script(job: Job, work: Work, file: Path) -> str:
    data = spelled([(directory.resolve(), weight) for directory, weight in directories_in(work.data)])
    plan, out, devices = str(file.resolve()), str(work.out.resolve()), work.devices
    trains = isinstance(job, TrainJob)
    here = devices if trains else Devices()
    wanted = {
        "job-name": job.name.replace("/", "-"),
        "output": f"{out}/{FOLDER}/%x-%j.out",
        "nodes": here.nodes,
        "ntasks-per-node": here.on_each,
        **work.plan.slurm,
    }
    command = ["ckptgrow", "run", plan, "--data", data, "--out", out, "--only", job.name]
    if trains and devices.count > 1:
        command += ["--devices", str(devices.on_each), "--nodes", str(devices.nodes), "--launcher", "srun"]
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in wanted.items()), "#SBATCH --requeue"]
    return "\n".join([*lines, "set -e", shlex.join(command)]) + "\n"


def _sbatch(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RequestError("⟦slurm⟧: there is no sbatch here, expected it on the path; run on the cluster") from error
    number = re.match(r"\d+", done.stdout.strip())
    if done.returncode or number is None:
        raise RequestError(
            f"⟦slurm⟧: sbatch refused {arguments[-1]} ({' '.join((done.stderr or done.stdout).split())[:200]}), "
            "expected a job's number"
        )
    return number[0]
