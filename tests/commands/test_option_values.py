"""A value that an option does not take is told in one line, with what was found and what is taken, before torch loads.

The cases are drawn from the commands themselves, so that an option that somebody adds is among them.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ckptgrow.cli import run
from ckptgrow.ranges import RANGES, Range
from tests.helpers.command_lines import commands
from tests.helpers.commands import refused

FIXTURE = Path(__file__).parents[2] / "fixtures" / "gpt2-tiny.ckpt"
CPU_SECONDS = 0.5
# options whose words are read by the command itself: words that none of them takes
READ_BY_COMMANDS = {
    "noise": ("loud", "-1", "65", "nan"),
    "step": ("soon", "-3", "1.5"),
    "lr": ("high", "-1", "inf"),
    "rewarm_new": ("1.3", "0,5", "nan,5", "1.3,-1"),
    "max_shard_size": ("big", "0GB"),
    "layers": ("a", "9-3"),
    "reset": ("all",),
    "budget": ("much", "-1%", "0"),
    "steps": ("a", "8,4", "0"),
    "operators": ("height",),
    "lr_rule": ("fast", "-1"),
    "batch": ("large", "0"),
    "batch_size": ("large", "0"),
}


def numbers() -> Iterator[tuple[tuple[str, ...], str, str, type]]:
    """Every option that takes a number: its command, flag and Python name, and which numbers."""
    for words, command in commands():
        for one in command.params:
            if (kind := one.type_descriptor.annotation) in (int, float):
                yield words, one.opts[0], str(one.name), kind


def wrong(taken: Range) -> list[str]:
    """Values next to a range, and those that no range has."""
    beside = [taken.least if taken.above_least else taken.least - 1, taken.most if taken.below_most else taken.most + 1]
    broken = ["1.5"] if taken.is_whole else ["nan", "inf"]
    return ["many", *broken, *(f"{one:.17g}" for one in beside if math.isfinite(one))]


def typed(words: Sequence[str], flag: str, value: str, tmp_path: Path) -> list[str]:
    """A command line with one wrong value, all else of it right as far as it is looked at before that value."""
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "plan.yaml").touch()
    source, data, out = str(FIXTURE), str(tmp_path), str(tmp_path / "new")
    rest = {
        "train": ["--data", data, "--out", out, "--size", "GPT2_base"],
        "probe": [source, "--data", data],
        "run": [str(tmp_path / "plan.yaml"), "--data", data, "--out", out],
        "generate": [source, "--prompt", "x"],
        "verify": [source, source],
        "convert": [source, out, "--to", "huggingface"],
        "data": [str(FIXTURE), out, "--tokenizer", "bytes"],
    }
    growing = [source, out, *(["--size", "300"] if words[0] in ("vocab", "positions") and flag != "--size" else [])]
    growing += ["--experts", "4"] if words[0] == "experts" and flag != "--experts" else []
    if words[0] == "eval":
        behind = {"run": [source, "--tasks", "a"], "compare": [source, source, "--tasks", "a"]}
        given = behind.get(words[1], [source, source] if words[1] == "perplexity" else [source])
    elif words[0] == "plan":
        given = _of_plan(words[1], flag, str(FIXTURE))
    else:
        given = rest.get(words[0], growing)
    return [*words, *given, f"{flag}={value}"]


def _of_plan(name: str, flag: str, log: str) -> list[str]:
    logs = {"curves": 2, "fit": 1, "watch": 1, "timing": 1, "show": 1}.get(name, 0)
    sized = ["--params", "1", "--params", "2"] if name in ("curves", "timing") else []
    sized = ["--params", "1"] if name == "fit" else sized
    needed = {"--operator": "width"} if name in ("curves", "watch") else {}
    needed |= {"--tokens-per-step": "1"} if name in ("curves", "timing", "fit") else {}
    needed |= {"--train-steps": "9"} if name == "timing" else {}
    return [log] * logs + sized + [word for one in needed.items() if one[0] != flag for word in one]


NUMBERS = list(numbers())


def test_every_option_that_takes_a_number_says_which() -> None:
    assert len(NUMBERS) > 100
    assert {name for _, _, name, _ in NUMBERS} <= set(RANGES)
    for _, flag, name, kind in NUMBERS:
        assert RANGES[name].is_whole == (kind is int) or name == "batch_size", flag


@pytest.mark.parametrize(
    ("words", "flag", "name", "kind"), NUMBERS, ids=[" ".join([*words, flag]) for words, flag, _, _ in NUMBERS]
)
def test_a_number_that_an_option_does_not_take_is_told(
    words: tuple[str, ...], flag: str, name: str, kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in wrong(RANGES[name]):
        refused(typed(words, flag, value, tmp_path), capsys, f"{flag} ", ": expected ", RANGES[name].bounds)
    assert not (tmp_path / "new").exists()


def worded() -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Every option whose words its command reads."""
    for words, command in commands():
        for one in command.params:
            if one.name in READ_BY_COMMANDS and one.type_descriptor.annotation is str:
                yield words, one.opts[0], str(one.name)


WORDED = list(worded())


@pytest.mark.parametrize(("words", "flag", "name"), WORDED, ids=[" ".join([*words, flag]) for words, flag, _ in WORDED])
def test_words_that_an_option_does_not_take_are_told(
    words: tuple[str, ...], flag: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in READ_BY_COMMANDS[name]:
        refused(typed(words, flag, value, tmp_path), capsys, f"{flag} ", " expected ")
    assert not (tmp_path / "new").exists()


def test_no_wrong_value_has_torch_loaded(tmp_path: Path) -> None:
    """All of them in one process, which may not load it, and in little time for each."""
    lines = [typed(words, flag, wrong(RANGES[name])[-1], tmp_path) for words, flag, name, _ in NUMBERS]
    lines += [typed(words, flag, READ_BY_COMMANDS[name][-1], tmp_path) for words, flag, name in WORDED]
    program = (
        "import sys\nfrom ckptgrow.cli import run\n"
        f"for words in {lines!r}:\n"
        "    assert run(words) == 2, words\n"
        "    assert not {'torch', 'transformers', 'lightning', 'scipy'} & set(sys.modules), words\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "line",
    [
        "width CKPT OUT --factor 0",
        "train --data DATA --out OUT --size GPT2_base --lr -1",
        "train --data DATA --out OUT --size GPT2_base --seqlen 0",
        "inspect TEXT",
        "verify CKPT CKPT",
    ],
)
def test_a_wrong_value_takes_a_fraction_of_a_second(line: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{}")
    known = {"CKPT": FIXTURE, "DATA": tmp_path, "OUT": tmp_path / "out", "TEXT": tmp_path / "meta.json"}
    words = [str(known.get(word, word)) for word in line.split()]
    program = (
        f"import sys, time; from ckptgrow.cli import run; code = run({words!r}); "
        "print(time.process_time()); sys.exit(100 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 2, done.stderr
    assert float(done.stdout) < CPU_SECONDS


def test_the_help_shows_the_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run(["width", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[at least 2]" in shown and "[above 0 and at most 1.5]" in shown
