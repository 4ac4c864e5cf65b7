"""Every command, on a terminal and on a machine whose imports are slow, shows at each moment that it works."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.command_lines import LINES, commands, go_before, lay_out
from tests.helpers.paths import ROOT

SLOW_IMPORTS = """
import sys, time

class Slow:
    names = {"torch", "transformers", "lightning", "lm_eval", "scipy"}

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            self.names.discard(name)
            time.sleep(2.0)

sys.meta_path.insert(0, Slow())
"""
SILENCE = 1.9  # seconds: below the time that an import takes, above what torch's own keeps all threads waiting
INVISIBLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\s")


def silences(words: list[str], directory: Path, slow: Path) -> tuple[int, list[tuple[float, str]]]:
    """The exit code of a command on a terminal, and how long nothing visible came, with what came last before that."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(directory)
        os.environ.update(PYTHONPATH=f"{slow}:{ROOT}", OMP_NUM_THREADS="1")
        os.execv(sys.executable, [sys.executable, "-m", "ckptgrow", *words])
    found, shown, last = [], "", time.monotonic()
    while True:
        if not select.select([terminal], [], [], 300)[0]:
            os.kill(process, signal.SIGKILL)
        try:
            part = os.read(terminal, 65536).decode(errors="ignore")
        except OSError:  # closed at the other end
            part = ""
        if not part or INVISIBLE.sub("", part):
            now = time.monotonic()
            found.append((now - last, shown[-60:]))
            last, shown = now, shown + part
        if not part:
            break
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), [one for one in found if one[0] > SILENCE]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    lay_out(tmp_path)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_IMPORTS)
    return tmp_path


def test_every_command_is_among_the_lines() -> None:
    known = {" ".join(words) for words, _ in commands()}
    assert known == {one for one in known if any(f"{line} ".startswith(f"{one} ") for line in LINES)}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("line", LINES)
def test_no_moment_of_a_command_is_without_a_sign(line: str, place: Path) -> None:
    go_before(line, place)
    code, found = silences(shlex.split(line), place, place / "slow")
    assert code == 0
    assert not found
