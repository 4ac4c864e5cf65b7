"""Ctrl-C at a moment of every command's work: one last line that says what is kept and how to go on, and no remains."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.command_lines import LINES, go_before, lay_out
from tests.helpers.paths import ROOT

LATEST = 6.0  # seconds after the start
INSTALLED = 0.3  # seconds: before this Python itself may still be starting
SAID = ("interrupted; ", "interrupted and saved; ")
WAYS_ON = ("start it again", "goes on", "go on", "begins it anew")


def interrupted_at(moment: float, line: str, directory: Path) -> tuple[int, list[str]]:
    """The exit code of a command that got SIGINT so many seconds after its start, and its lines on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ckptgrow", *shlex.split(line)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    return process.returncode, said.splitlines()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("line", LINES)
def test_ctrl_c_is_answered_by_what_is_kept_and_how_to_go_on(line: str, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    lay_out(before)
    go_before(line, before)
    moment, code, said = random.Random(line).uniform(LATEST / 2, LATEST * 2), 0, [""]
    while code == 0 and moment > INSTALLED:  # where it had ended by then, earlier once more
        moment /= 2
        place = shutil.copytree(before, tmp_path / f"{moment:.3f}", symlinks=True)
        code, said = interrupted_at(max(moment, INSTALLED), line, place)
    if code == 0 or not said:  # or it had not begun to read its arguments
        pytest.skip("is done as soon as it has begun")
    assert code == 130, said
    last = said[-1].removeprefix("ckptgrow: ").removeprefix("warning: ")
    assert last.startswith(SAID) and any(way in last for way in WAYS_ON), said
    assert not [one for one in tmp_path.rglob("*") if one.name.endswith((".partial", ".tmp"))]
