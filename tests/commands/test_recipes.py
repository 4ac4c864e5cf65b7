"""Growths as files: what a checkpoint records makes the same bytes again, and what is wrong in a recipe is named."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from ckptgrow.cli import run
from tests.helpers.commands import as_json, refused
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import trained_checkpoint

GROWTHS = (
    "width --lr-rule mup --wd-rule sqrt",
    "width --factor 3 --how tile --noise 0.1 --seed 7",
    "width --noise 0 --step auto --rewarm 3",
    "width --spread 1.5 --reset schedule",
    "width --factor 2 --ffn 20",
    "width --ffn 50 --how pad --fresh zero-copy --fresh-moments mean",
    "width --hidden 20 --how pad",
    "width --reset new --moments unscaled",
    "depth",
    "depth --layers 0,0,0,1",
    "depth --every 2 --new zero-norm",
    "depth --place middle --new ode --factor 3",
    "depth --new random --seed 5 --step 2",
    "depth --new copy --place append --reset optimizer",
    "vocab --size 40 --pad-to 8",
    "vocab --size 40 --init copy --reset new",
    "positions --size 20",
    "positions --size 20 --new interpolate --reset schedule",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("recipes") / "small.ckpt", perturbed_gpt2())


@pytest.mark.sampled(8)
@pytest.mark.parametrize("growth", GROWTHS)
def test_what_is_recorded_grows_the_same_bytes(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], growth: str
) -> None:
    operator, *options = shlex.split(growth)
    assert run([operator, str(small), str(tmp_path / "grown.ckpt"), *options]) == 0
    capsys.readouterr()
    assert run(["inspect", "--recipe", str(tmp_path / "grown.ckpt")]) == 0
    (tmp_path / "recipe.yaml").write_text(capsys.readouterr().out)
    assert run(["grow", str(tmp_path / "recipe.yaml"), str(small), str(tmp_path / "again.ckpt")]) == 0
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "grown.ckpt").read_bytes()


def test_a_recipe_with_its_own_paths_grows_beside_itself(small: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "deep.json"
    recipe.write_text(
        json.dumps({"$schema": "s.json", "operator": "depth", "in": "../small.ckpt", "out": "o.ckpt", "lr-rule": "mup"})
    )
    (tmp_path / "small.ckpt").symlink_to(small)
    assert run(["grow", str(recipe)]) == 0
    assert run(["depth", str(small), str(tmp_path / "deep.ckpt"), "--lr-rule", "mup"]) == 0
    assert (tmp_path / "recipes" / "o.ckpt").read_bytes() == (tmp_path / "deep.ckpt").read_bytes()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"operator": "width", "fctor": 2}, ("has no field fctor", "did you mean factor?")),
        ({"operator": "depth", "ffn": 20}, ("recipe of depth", "has no field ffn")),
        ({"operator": "sideways"}, ("operator: is 'sideways', expected width or depth",)),
        ({"factor": 2}, ("lacks operator",)),
        ({"operator": "width", "factor": "two"}, ("factor: is 'two', expected a whole number",)),
        ({"operator": "width", "factor": 1}, ("factor: is 1, expected a whole number, at least 2",)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_in_a_recipe_is_named(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: dict[str, object], words: tuple[str, ...]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    refused(["grow", str(tmp_path / "recipe.yaml"), str(small), str(tmp_path / "out.ckpt")], capsys, *words)
    assert not (tmp_path / "out.ckpt").exists()


def test_paths_that_nothing_says_are_asked_for(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("operator: width\n")
    refused(["grow", str(tmp_path / "recipe.yaml")], capsys, "says no in")
    refused(["grow", str(tmp_path / "recipe.yaml"), str(small)], capsys, "says no out")
    refused(["grow", "--force"], capsys, "Missing argument 'RECIPE'")
    refused(["inspect", "--recipe", str(small)], capsys, "records no growth")


def test_the_schema_has_every_option_of_both_operators(capsys: pytest.CaptureFixture[str]) -> None:
    width, depth, vocab, positions, experts = as_json(["grow", "--schema"], capsys)["oneOf"]  # type: ignore[misc]
    assert {"size", "tokenizer", "pad_to", "init", "old_tokenizer", "drop"} <= set(vocab["properties"])
    assert {"size", "new", "lr_rule"} <= set(positions["properties"])
    assert {"experts", "separate", "spread", "seed", "drop"} <= set(experts["properties"])
    for tree, own in ((width, "wd_rule"), (depth, "every")):
        assert {"operator", "in", "out", "factor", "seed", "step", "drop", "config", own} <= set(tree["properties"])
        assert tree["additionalProperties"] is False
        assert "force" not in tree["properties"]
    assert width["properties"]["operator"] == {"const": "width"}
    assert "times as wide" in width["properties"]["factor"]["description"]
