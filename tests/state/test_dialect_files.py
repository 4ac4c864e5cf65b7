"""A user's own dialect in a file: it grows a file that no trainer's table knows, and what is wrong in it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.dialects.dialect_files import read_dialect
from ckptgrow.errors import CkptgrowError
from tests.helpers.own_dialect import MINE, QKV, WORDS, written
from tests.helpers.trainer_files import SAMPLES, relative_difference, trainers_logits, transformers_logits


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """Litgpt's trained Llama under names of nobody else's."""
    state = torch.load(SAMPLES["litgpt-llama"] / "lit_model.pth", weights_only=True)
    model: dict[str, torch.Tensor] = {}
    for name, tensor in state["model"].items():
        own = name.replace("lm_head", "out")
        for old, new in WORDS:
            own = own.replace(old, new)
        model[own] = tensor
    sizes = {"layers": 2, "width": 16, "heads": 4, "kv": 2, "ffn": 24, "vocab": 32, "bias": False}
    torch.save({"model": model, "optimizer": state["optimizer"], "sizes": sizes, "step": 5}, tmp_path / "own.pt")
    return tmp_path / "own.pt"


def test_a_file_that_only_the_user_knows_grows_and_verifies(tmp_path: Path, own_file: Path) -> None:
    dialect = written(tmp_path / "mine.yaml", MINE)
    request = ckptgrow.StateRequest(dialect=dialect)
    ckptgrow.width(own_file, tmp_path / "grown.pt", factor=2, request=request)
    assert ckptgrow.verify(own_file, tmp_path / "grown.pt", dialect=dialect).passed
    grown = torch.load(tmp_path / "grown.pt", weights_only=True)
    assert grown["sizes"] == {"layers": 2, "width": 32, "heads": 8, "kv": 4, "ffn": 48, "vocab": 32, "bias": False}
    tokens, expected = trainers_logits(SAMPLES["litgpt-llama"])
    assert relative_difference(transformers_logits(tmp_path / "grown.pt", tokens, dialect), expected) < 2e-6


def test_one_command_tries_a_dialect(tmp_path: Path, own_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = written(tmp_path / "mine.yaml", MINE)
    assert run(["inspect", str(own_file), "--dialect", right, "--check"]) == 0
    assert "mine" in (shown := capsys.readouterr()).out and "warning" not in shown.err
    wrong = written(tmp_path / "wrong.yaml", {**MINE, "rows": MINE["rows"][:-1]})
    assert run(["inspect", str(own_file), "--dialect", wrong]) == 2
    assert "it has no final.weight" in capsys.readouterr().err


def with_row(**changes: Any) -> dict[str, Any]:
    return {**MINE, "rows": [{**MINE["rows"][0], **changes}, *MINE["rows"][1:]]}


@pytest.mark.parametrize(
    ("dialect", "reason"),
    [
        ({**MINE, "rowz": []}, "says rowz, expected config, model_type, name"),
        ({**MINE, "rows": []}, "has no rows"),
        ({**MINE, "rows": [*MINE["rows"], MINE["rows"][0]]}, "names out.weight twice"),
        (with_row(how="turn"), "row out.weight: how says turn, expected experts, group, join"),
        (with_row(ours=QKV), "has 3 of ours, expected several with join or group"),
        (with_row(ours="rotary ffn: lm_head.weight"), "step 'rotary ffn', expected rotary heads"),
        (with_row(ours="times 0: lm_head.weight"), "step 'times 0'"),
        (with_row(theirs="out.{layer}.weight"), "do not both stand in layers"),
        ({**MINE, "config": {"at": ["sizes"]}}, "config has no fields"),
        ({key: one for key, one in MINE.items() if key != "model_type"}, "has no model_type"),
    ],
)
def test_what_is_wrong_in_a_dialect_is_named(tmp_path: Path, dialect: dict[str, Any], reason: str) -> None:
    with pytest.raises(CkptgrowError, match=reason):
        read_dialect(Path(written(tmp_path / "mine.yaml", dialect)))


def test_a_name_that_transformers_has_not_is_named(tmp_path: Path, own_file: Path) -> None:
    dialect = written(tmp_path / "mine.yaml", with_row(ours="head.weight"))
    with pytest.raises(CkptgrowError, match=r"llama has no head\.weight"):
        ckptgrow.width(own_file, tmp_path / "b.pt", request=ckptgrow.StateRequest(dialect=dialect))


def test_constants_turn_weights_and_moments_the_other_way(tmp_path: Path, own_file: Path) -> None:
    """A weight twice as large for the trainer has gradients half as large, and squares a quarter."""
    from ckptgrow.state.opening import open_state

    scaled = written(tmp_path / "mine.yaml", with_row(ours="times 2: lm_head.weight"))
    plain, twice = (open_state(own_file, dialect=one) for one in (written(tmp_path / "p.yaml", MINE), scaled))
    read = [state.checkpoint.tensors["lm_head.weight"].rows(0, 32) for state in (plain, twice)]
    assert torch.equal(read[0], 2 * read[1])
    for key, factor in (("exp_avg", 2), ("exp_avg_sq", 4)):
        one, other = (state.optimizers[0].state["lm_head.weight"][key].rows(0, 32) for state in (plain, twice))
        assert torch.equal(factor * one, other)


def test_constants_come_back_as_they_went(tmp_path: Path, own_file: Path) -> None:
    """What growth leaves as it is, is in the trainer's file as it was: weights, averages and averages of squares."""
    scaled = written(tmp_path / "mine.yaml", with_row(ours="times 2: lm_head.weight"))
    ckptgrow.depth(own_file, tmp_path / "deep.pt", request=ckptgrow.StateRequest(dialect=scaled))
    before, after = (torch.load(path, weights_only=True) for path in (own_file, tmp_path / "deep.pt"))
    assert torch.equal(before["model"]["out.weight"], after["model"]["out.weight"])
    old, new = (
        next(one for one in tree["optimizer"]["state"].values() if one["exp_avg"].shape == (32, 16))
        for tree in (before, after)
    )
    assert all(torch.equal(old[key], new[key]) for key in ("exp_avg", "exp_avg_sq"))
