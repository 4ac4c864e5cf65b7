"""The explanations' pictures are what their script draws, and show matrices for which the words hold."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.helpers.paths import DOCS, README

SCRIPT: dict[str, Any] = runpy.run_path(str(DOCS / "_drawings.py"))


@pytest.mark.parametrize("name", list(SCRIPT["DRAWINGS"]))
def test_a_picture_is_what_the_script_draws(name: str) -> None:
    drawn = SCRIPT["DRAWINGS"][name]().to_svg()
    ElementTree.fromstring(drawn)
    assert (DOCS / "explanation" / "drawings" / f"{name}.svg").read_text(encoding="utf-8") == drawn
    pages = [page for page in DOCS.rglob("*.md") if f"drawings/{name}.svg" in page.read_text(encoding="utf-8")]
    assert [page.stem for page in pages] == [name]


def test_the_picture_of_savings_is_drawn_from_the_curves_that_are_kept() -> None:
    script = runpy.run_path(str(DOCS / "_savings_picture.py"))
    curves = json.loads((DOCS / "savings.json").read_text(encoding="utf-8"))
    assert (DOCS / "savings.svg").read_text(encoding="utf-8") == script["picture"](curves).to_svg()
    scratch, split, zero_copy = (rows[-1] for rows in curves.values())
    assert split[0] <= 1 and zero_copy[0] <= scratch[0] == 1
    readme = README.read_text(encoding="utf-8")
    assert "0.029 ± 0.021" in readme and "0.046 ± 0.018" in readme
    assert scratch[1] - split[1] == pytest.approx(0.029, abs=0.015)
    assert scratch[1] - zero_copy[1] == pytest.approx(0.046, abs=0.015)


@pytest.mark.parametrize("how", ["tiled", "diagonal", "split"])
def test_the_grown_matrices_compute_the_same(how: str) -> None:
    grow: Callable[[Any], Any] = SCRIPT[how]
    old, x = np.array(SCRIPT["drawn"](1)), np.array([0.5, -2.0, 3.0])
    new = np.array(grow(old))
    np.testing.assert_allclose(new @ np.tile(x, 2), np.tile(old @ x, 2), rtol=1e-12)
    assert (new != np.tile(old / 2, (2, 2))).any() == (how != "tiled")


def test_the_moments_are_those_of_the_gradient_and_its_square() -> None:
    """With half of the gradient in every block, as W @ (x₁ + x₂) / 2 has it by the chain rule."""
    gradient = np.array(SCRIPT["drawn"](2))
    squares = np.array(SCRIPT["tiled"](SCRIPT["tiled_once"]((gradient**2).tolist())))
    np.testing.assert_allclose(squares, np.array(SCRIPT["tiled"](gradient)) ** 2, rtol=1e-12)
