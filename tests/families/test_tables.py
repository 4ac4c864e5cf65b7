"""What a table can say, and what is said of all tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ckptgrow
from ckptgrow.cli import app
from ckptgrow.families.family import Family
from ckptgrow.families.registry import FAMILIES
from ckptgrow.spaces.layout import parse
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import claim
from ckptgrow.state.sizes import holds
from tests.families.contract import RESULTS, page_with, table
from tests.helpers.families import CASES, difference, loaded, perturbed
from tests.helpers.lightning_files import save_lightning
from tests.helpers.paths import FAMILIES_PAGE


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (None, True),
        ("bias", True),
        ("not bias", False),
        ("missing", False),
        ("not missing", True),
        ("size == other", False),
        ("size != other", True),
        ("size == 3", True),
        ("size != 3", False),
    ],
)
def test_conditions_are_read_from_the_config(condition: str | None, expected: bool) -> None:
    assert holds(condition, {"bias": True, "size": 3, "other": 4}) is expected


def test_every_family_has_a_case_in_the_contract_and_a_row_in_the_documentation() -> None:
    assert {model_type for model_type, _ in CASES.values()} == set(FAMILIES)
    text = FAMILIES_PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"`([a-z0-9_-]+)`", text)) >= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_layout_names_spaces_whose_size_is_known(family: Family) -> None:
    for parameter in family.parameters:
        assert parse(parameter.layout).spaces <= set(family.sizes), parameter.name


def test_the_documented_table_is_what_the_contract_showed() -> None:
    passed = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = FAMILIES_PAGE.read_text(encoding="utf-8")
    assert page_with(text, table(passed)) == text
    assert all(passed.values())
    assert all(any(f"[{case}]" in name for name in passed) for case in CASES)


def test_the_families_are_listed_with_what_each_supports() -> None:
    result = CliRunner().invoke(app, ["inspect", "--families", "--json"])
    table = json.loads(result.stdout)["families"]
    assert set(table) == set(FAMILIES)
    assert table["bert"]["depth"] == "copy only" and table["bloom"]["width"] == "refused"
    assert table["olmo"]["width"] == "exact unless tie_word_embeddings"


@pytest.mark.parametrize(
    ("case", "part", "other"),
    [
        ("gpt_neox", "lm_head.weight", "embed_out.weight"),
        ("bert", "LayerNorm.weight", "LayerNorm.gamma"),
        ("vit", "vit.layers.1.attention.q_proj", "vit.encoder.layer.1.attention.attention.query"),
    ],
)
def test_names_are_read_and_written_as_the_file_has_them(tmp_path: Path, case: str, part: str, other: str) -> None:
    small = perturbed(case)
    tensors = {f"model.{name.replace(part, other)}": tensor for name, tensor in small.state_dict().items()}
    ckptgrow.width(save_lightning(tmp_path / "small.ckpt", small, state_dict=tensors), tmp_path / "grown.ckpt", noise=0)
    ckptgrow.width(save_lightning(tmp_path / "usual.ckpt", small), tmp_path / "expected.ckpt", noise=0)
    expected, tree = loaded(tmp_path / "expected.ckpt")
    assert difference(small, expected)[0] <= 1e-12
    found = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    assert list(found) == list(tensors)
    for name, tensor in tree["state_dict"].items():
        assert torch.equal(found[name.replace(part, other)], tensor)


@pytest.mark.parametrize("case", CASES)
def test_tables_know_the_order_of_the_modules_parameters(case: str) -> None:
    """Files of optimizers say positions alone, and directories list their tensors by the alphabet."""
    model = perturbed(case)
    shapes = {name: tuple(tensor.shape) for name, tensor in sorted(model.state_dict().items())}
    claimed = claim(Architecture(FAMILIES[CASES[case][0]], model.config.to_dict(), case), shapes)
    ordered = [one.canonical for one in claimed.in_module_order().parameters]
    known = dict(model.named_parameters(remove_duplicate=False))  # a tied head may stand first, and name the embedding
    assert [id(known[name]) for name in ordered] == [id(one) for _, one in model.named_parameters()]
