"""Whoever waits for a command sees that it works: on a terminal, in a log, and after Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptgrow import cli
from ckptgrow.cli import run
from ckptgrow.commands import _pulse
from ckptgrow.commands._interruption import interrupted
from ckptgrow.commands._moving_parts import LivePart
from ckptgrow.commands._pulse import PULSE, Pulse
from ckptgrow.commands._screen import Screen
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import save_lightning
from tests.helpers.paths import ROOT

SPINNER = re.compile(r"\r\x1b\[K[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] ([^\r]*) …\r")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lightning(tmp_path_factory.mktemp("pulse") / "small.ckpt", perturbed_gpt2())


def test_a_log_gets_a_line_in_every_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_pulse, "SECONDS_OF_SILENCE", 0.2)
    pulse = Pulse()
    with pulse.beating():
        pulse.does("building both models")
        time.sleep(1.1)
        pulse.does("counting")
        time.sleep(0.6)
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 8
    assert all(re.fullmatch(r"… (building both models|counting), \d+ s", line) for line in lines)
    assert "counting" in lines[-1] and "building" in lines[0]


def test_who_speaks_needs_no_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_pulse, "SECONDS_OF_SILENCE", 5.0)
    screen = Screen(False)
    with PULSE.beating():
        begun = PULSE._shown - 4.9
        PULSE._shown = begun
        screen.note("one")
        assert PULSE._shown > begun
        time.sleep(0.4)
    assert capsys.readouterr().err == "one\n"


def test_steps_are_told_to_a_file_while_a_terminal_shows_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    screen = Screen(False)
    with screen.steps("step") as show:
        show(10, 20, "loss 3.5", True)
        show(11, 20, "loss 3.4", False)
    assert capsys.readouterr().out == "step 10/20: loss 3.5\n"
    assert "11/20" in terminal.getvalue()
    with screen.live():
        screen.say("stage-1/train: step 60")
    assert capsys.readouterr().out == "stage-1/train: step 60\n"


@pytest.mark.parametrize("kind", ["steps", "live"])
def test_what_has_nothing_to_show_yet_leaves_the_terminal_to_the_signs_of_life(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once it has, a spinner turns beside it, however long nothing changes."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with PULSE.beating():
        PULSE.does("preparing")
        screen = Screen(False)
        with screen.steps("step") if kind == "steps" else screen.live() as part:
            time.sleep(0.8)
            assert "preparing" in SPINNER.findall(terminal.getvalue())
            if isinstance(part, LivePart):
                part.update("stage-1/train")
            else:
                part(1, 20, "stage-1/train", False)
            time.sleep(0.9)
            drawn = SPINNER.sub("", terminal.getvalue())
        assert "stage-1/train" in drawn and len(set(drawn) & set(_pulse.FRAMES)) > 1
        assert SPINNER.findall(terminal.getvalue())[-1] == "preparing"


def on_a_terminal(words: list[str], meanwhile: Callable[[int, str], None]) -> tuple[int, str]:
    """The exit code of a command on a terminal, and what that showed; `meanwhile` gets the terminal and that so far."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
        os.execv(sys.executable, [sys.executable, "-m", "ckptgrow", *words])
    shown = b""
    while True:
        if not select.select([terminal], [], [], 120)[0]:
            os.kill(process, signal.SIGKILL)
        try:
            part = os.read(terminal, 65536)
        except OSError:  # closed at the other end
            part = b""
        if not part:
            break
        shown += part
        meanwhile(terminal, shown.decode(errors="ignore"))
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


def test_a_terminal_sees_what_is_done_from_the_first_second_on(small: Path, tmp_path: Path) -> None:
    """And nothing of it stays, also when Ctrl-C is typed."""
    assert run(["width", str(small), str(tmp_path / "wide.ckpt")]) == 0
    code, shown = on_a_terminal(["verify", str(small), str(tmp_path / "wide.ckpt")], lambda terminal, shown: None)
    assert code == 0
    doing = SPINNER.findall(shown)
    assert doing[0] in ("loading", "ckptgrow verify") and "ckptgrow verify" in doing
    assert "verified" in SPINNER.sub("", shown)
    assert "…" not in SPINNER.sub("", shown)

    def stop(terminal: int, shown: str) -> None:
        if SPINNER.search(shown) and "^C" not in shown:
            os.write(terminal, b"\x03")
            time.sleep(0.2)

    code, shown = on_a_terminal(["verify", str(small), str(tmp_path / "wide.ckpt")], stop)
    assert code == 130
    assert "ckptgrow: interrupted; nothing is half-written; start it again" in shown


def test_nothing_spins_over_what_a_user_types(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with PULSE.beating():
        with PULSE.held():  # as `generate --prompt -` reads
            time.sleep(0.8)
        assert not terminal.getvalue()
        time.sleep(0.8)
        assert SPINNER.search(terminal.getvalue())


@pytest.mark.parametrize(
    ("words", "callee", "said"),
    [
        (["verify", "small", "other.ckpt"], "ckptgrow.verification.comparison.verify", "nothing is half-written"),
        (["width", "small", "out.ckpt"], "ckptgrow.recipes.growth_recipe.GrowthRecipe.grow", "nothing is half-written"),
        (
            ["data", "a.txt", "out", "--tokenizer=bytes"],
            "ckptgrow.data.preparation.prepare",
            "the same command goes on there",
        ),
        (["train", "--data=a", "--out=b", "--size=GPT2_base"], "ckptgrow.train.training_run.train", "--resume DIR"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    words: list[str],
    callee: str,
    said: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "meta.json").touch()
    shutil.copy(small, tmp_path / "other.ckpt")
    monkeypatch.setattr(callee, stopped)
    assert run([str(small) if one == "small" else one for one in words]) == 130
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("ckptgrow: interrupted; ") and said in line and output.out == ""


def test_an_interruption_that_a_library_kept_to_itself_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PULSE, "may_go_on", cli._raise_what_was_swallowed)
    with Screen(False).stages() as stage:
        stage("loading")
        with contextlib.suppress(KeyboardInterrupt):
            cli._stopped(signal.SIGINT, None)
        try:
            with pytest.raises(KeyboardInterrupt):
                stage("running both models")
        finally:
            cli._received.clear()


def test_an_interruption_inside_an_exec_ends_with_its_code(tmp_path: Path) -> None:
    """As one that comes while a dataclass is made: under `python -m` Python would die of SIGINT instead."""
    (tmp_path / "interrupted.py").write_text(
        "import os, signal\n"
        "from ckptgrow import cli\n"
        "def interrupted(words):\n"
        "    try: exec('import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)')\n"
        "    except KeyboardInterrupt: return 130\n"
        "cli.run = interrupted\n"
        "cli.main(['inspect'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 130, done.stderr


def test_a_termination_is_called_one() -> None:
    assert interrupted("run", signal.SIGTERM) == "ended by SIGTERM; the same command goes on where it was"


def test_interrupted_data_leave_no_empty_directory_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("one\ntwo\n" * 50)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    words = ["data", str(text), str(tmp_path / "new" / "out"), "--tokenizer", "bytes"]
    with monkeypatch.context() as patch:
        patch.setattr("ckptgrow.data.preparation._parts_directory", stopped)
        assert run(words) == 130
    assert not (tmp_path / "new").exists()
    with monkeypatch.context() as patch:
        patch.setattr("ckptgrow.data.preparation._joined", stopped)
        assert run(words) == 130
    assert (tmp_path / "new" / "out").is_dir()
    assert run(words) == 0
    assert (tmp_path / "new" / "out" / "train.bin").stat().st_size > 0


def test_a_demo_that_lacks_an_extra_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ckptgrow.commands.demo.find_spec", lambda name: None if name == "lightning" else name)
    assert run(["demo"]) == 2
    assert "pip install 'ckptgrow[train,plan]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_log_of_a_real_command_says_what_it_does(small: Path, tmp_path: Path) -> None:
    program = (
        "from ckptgrow.commands import _pulse; _pulse.SECONDS_OF_SILENCE = 0.005; from ckptgrow.cli import main; main()"
    )
    words = [sys.executable, "-c", program, "width", str(small), str(tmp_path / "out.ckpt")]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    doing = [line for line in done.stderr.splitlines() if line.startswith("… ")]
    assert any(line.startswith("… ckptgrow width, ") for line in doing) and any(
        "widening small.ckpt" in line for line in doing
    )
    assert all(one.startswith(("… ", "note: ")) for one in done.stderr.splitlines())
