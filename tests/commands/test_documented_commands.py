"""The commands as a shell sees them: help, JSON and exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ckptgrow
from ckptgrow.cli import app, run
from tests.helpers.commands import as_json, said
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import trained_checkpoint
from tests.helpers.paths import ROOT


def command_lines() -> list[list[str]]:
    """Every command and subcommand that the app has."""
    lines = [[info.name or str(info.callback.__name__)] for info in app.registered_commands if info.callback]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = group.name or group.typer_instance.info.name
        assert isinstance(name, str)
        lines.append([name])
        for info in group.typer_instance.registered_commands:
            assert info.callback is not None
            lines.append([name, info.name or info.callback.__name__])
    return lines


@pytest.mark.parametrize("line", [[], *command_lines()], ids=" ".join)
def test_help_answers_without_loading_torch(line: list[str]) -> None:
    program = (
        "import sys; from ckptgrow.cli import run; code = run([*sys.argv[1:], '--help']); "
        "heavy = {'torch', 'transformers', 'numpy', 'lightning', 'lm_eval', 'scipy', 'rich', 'pydantic'}; "
        "heavy &= set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: ckptgrow" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("line", ["width {} g.ckpt", "depth {} g.ckpt", "inspect {}", "convert {} g --to huggingface"])
def test_growth_reading_and_conversion_load_no_framework(line: str, tmp_path: Path) -> None:
    """Seconds of imports before the first byte, of what they do not need."""
    program = (
        "import sys; from ckptgrow.cli import run; code = run(sys.argv[1:]); "
        "heavy = {'transformers', 'lightning', 'lm_eval', 'scipy', 'datasets', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    words = line.format(ROOT / "fixtures" / "gpt2-tiny.ckpt").split()
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("cli") / "small.ckpt", perturbed_gpt2())


def test_json_has_the_keys_of_the_contract(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "grown.ckpt")
    grown = as_json(["width", str(small), out, "--noise", "0", "--lr-rule", "mup"], capsys)
    assert {"out", "old", "new", "num_parameters", "trapped", "lr_rule", "step"} <= set(grown)
    assert grown["trapped"] is True and grown["lr_rule"] == "mup" and grown["step"] == [5, 5]
    verified = as_json(["verify", str(small), out, "--steps", "2"], capsys)
    assert list(verified)[:6] == ["passed", "structure", "function", "moments", "trajectory", "asymmetry"]
    assert isinstance(verified["function"], dict) and isinstance(verified["trajectory"], dict)
    assert {"max_abs_logit_diff", "relative", "tolerance", "passed"} <= set(verified["function"])
    assert {"steps", "max_abs_loss_diff", "small", "grown"} <= set(verified["trajectory"])
    assert isinstance(verified["moments"], dict) and isinstance(verified["asymmetry"], dict)
    assert {"worst_relative_error", "worst_parameter"} <= set(verified["moments"])
    assert {"weights", "gradients", "trapped"} <= set(verified["asymmetry"])
    seen = as_json(["inspect", out], capsys)
    keys = "kind family config num_parameters num_tensors dtypes optimizer schedule global_step unclaimed history"
    assert set(keys.split()) <= set(seen)
    assert seen["kind"] == "lightning" and seen["family"] == "gpt2" and seen["unclaimed"] == []
    assert isinstance(seen["optimizer"], dict)
    assert {"name", "num_parameters_with_state", "state_keys", "groups"} <= set(seen["optimizer"])
    depth = as_json(["depth", str(small), str(tmp_path / "deep.ckpt")], capsys)
    assert {"out", "old", "new", "num_parameters", "trapped", "lr_rule", "step"} <= set(depth)


def test_a_difference_exits_1(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "stacked.ckpt")
    assert run(["depth", str(small), out, "--doubling-layers", "append_copy"]) == 0
    assert run(["verify", str(small), out]) == 1
    assert "does not preserve the function" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind"), [("alternate_id", "zero-norm"), ("append_id", "zero-norm"), ("alternate_copy", "copy")]
)
def test_the_original_names_of_depth_growth(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    as_json(["depth", str(small), str(tmp_path / "deep.ckpt"), "--doubling-layers", name], capsys)
    history = as_json(["inspect", str(tmp_path / "deep.ckpt")], capsys)["history"]
    assert isinstance(history, list) and history[0]["new"] == kind


def test_the_width_command_says_in_a_sentence_what_it_did(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["width", str(small), str(tmp_path / "grown.ckpt"), "--noise", "0"]) == 0
    output = capsys.readouterr()
    assert re.search(
        r"residual 12 → 24, heads 3 → 6, ffn 20 → 40; [\d,]+ → [\d,]+ parameters; lr rule keep", output.out
    )
    assert "trapped" in output.err


def test_output_into_a_pipe_has_no_colours_and_no_progress(small: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ckptgrow", "width", str(small), str(tmp_path / "grown.ckpt")],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "FORCE_COLOR": ""},
    )
    assert "\x1b" not in done.stdout + done.stderr and said(done.stderr) == []


def test_the_end_of_a_damaged_file_is_no_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typer takes any EOFError for the user's Ctrl-D, which ended commands with 130 and without a word."""

    def ended(*_: object, **__: object) -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr("ckptgrow.data.preparation.prepare", ended)
    assert run(["data", "a.txt", "out", "--tokenizer=bytes"]) == 2
    assert "EOFError: Ran out of input" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["plan"], ["eval"]], ids=" ".join)
def test_a_bare_command_shows_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    bare = capsys.readouterr()
    assert run([*words, "--help"]) == 0
    assert bare.out == capsys.readouterr().out and not bare.err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"ckptgrow {ckptgrow.__version__}\n"


def test_what_is_wrong_with_a_command_names_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "law", "--no-such-option"]) == 2
    assert "(see ckptgrow plan law --help)" in capsys.readouterr().err
