"""An optimizer's state as files have it, keyed by number or by name, and back."""

from __future__ import annotations

from typing import Any

import pytest

from ckptgrow.errors import CheckpointError
from ckptgrow.formats.raw_optimizers import raw_optimizer
from ckptgrow.state.optimizer_state import named_states, numbered

NUMBERED: dict[str, Any] = {
    "state": {0: {"step": 1.0}, 1: {"step": 2.0}},
    "param_groups": [
        {"lr": 0.1, "params": [0], "param_names": ["b"]},
        {"lr": 0.2, "params": [1], "param_names": ["a"]},
    ],
    "scale": 3,
}
NAMED: dict[str, Any] = {
    "state": {"b": {"step": 1.0}, "a": {"step": 2.0}},
    "param_groups": [{"lr": 0.1, "params": ["b"]}, {"lr": 0.2, "params": ["a"]}],
    "scale": 3,
}
SHAPES = {"a": (2,), "b": (3,)}


@pytest.mark.parametrize("state", [NUMBERED, NAMED], ids=["by number", "by name"])
def test_what_is_read_is_written_again_with_the_same_keys(state: dict[str, Any]) -> None:
    raw = raw_optimizer(state)
    assert raw.to_torch() == state
    (understood,) = named_states([raw], SHAPES)
    assert understood.names == ("b", "a") and understood.state == NAMED["state"]
    assert understood.to_raw() == raw


def test_an_optimizer_by_name_is_numbered_with_the_names_beside() -> None:
    assert numbered(raw_optimizer(NAMED)).to_torch() == NUMBERED
    assert numbered(raw_optimizer(NUMBERED)).to_torch() == NUMBERED


@pytest.mark.parametrize("keys", [{0: "0", 1: "1"}, {0: "b", 1: "a"}], ids=["text", "names"])
def test_records_under_other_spellings_of_the_groups_keys_are_theirs(keys: dict[int, str]) -> None:
    state = {keys[number]: record for number, record in NUMBERED["state"].items()}
    assert raw_optimizer({**NUMBERED, "state": state}).to_torch() == NUMBERED


@pytest.mark.parametrize(
    "change",
    [
        {"state": None},
        {"state": {0: [1]}},
        {"param_groups": {}},
        {"param_groups": [{"lr": 0.1}]},
        {"param_groups": [{"params": [0, 1], "param_names": [1, 2]}]},
        {"param_groups": [{"params": [0, 1], "lr": "fast"}]},
    ],
    ids=["no state", "a record that is none", "no groups", "no params", "names that are none", "a rate that is none"],
)
def test_what_is_no_optimizer_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="expected"):
        raw_optimizer({**NUMBERED, **change})
