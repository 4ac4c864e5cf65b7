"""What commands print under `--json` is JSON as its standard has it, which knows no Infinity and no NaN."""

from __future__ import annotations

import ast
import json
import math
from typing import NoReturn

import numpy as np
import pytest

from ckptgrow.cli import run
from ckptgrow.commands._screen import Screen
from tests.helpers.families import perturbed
from tests.helpers.paths import PACKAGE


def strictly(text: str) -> object:
    def refuse(word: str) -> NoReturn:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def test_no_infinity_and_no_nan_is_printed_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    deep = {"limits": (0.0, math.inf), 1: [{"loss": math.nan}], "low": {"rate": -math.inf}}
    Screen(as_json=True).result({**deep, "of numpy": np.float32("inf"), "double": np.float64("nan")})
    expected = {"limits": [0.0, "inf"], "1": [{"loss": None}], "low": {"rate": "-inf"}}
    assert strictly(capsys.readouterr().out) == {**expected, "of numpy": "inf", "double": None}


def test_the_limits_of_mamba_are_inspected(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    model = perturbed("mamba2")
    model.save_pretrained(str(tmp_path))
    assert run(["inspect", str(tmp_path), "--json"]) == 0
    found = strictly(capsys.readouterr().out)
    assert isinstance(found, dict) and found["config"]["time_step_limit"] == [0.0, "inf"]


def test_commands_print_json_through_one_function() -> None:
    """But for the schemas of recipes and plans, which are read here too."""
    printing = {
        path.name
        for path in (PACKAGE / "commands").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "dumps"
    }
    assert printing == {"_screen.py", "grow.py", "run_plan.py"}


@pytest.mark.parametrize("words", [["grow", "--schema"], ["run", "--schema"]], ids=" ".join)
def test_schemas_are_strict_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    assert strictly(capsys.readouterr().out)
