"""Errors get their place as they climb."""

from __future__ import annotations

import pytest

from ckptgrow.errors import CheckpointError, OptimizerError, RequestError, at


def test_places_stand_before_the_message_from_the_outermost_inwards() -> None:
    with pytest.raises(OptimizerError) as raised, at("small.ckpt"), at("optimizer 0"):
        raise OptimizerError("holds 8-bit states; use ⟦reset optimizer⟧")
    assert str(raised.value) == 'small.ckpt: optimizer 0: holds 8-bit states; use reset=("optimizer",)'
    assert raised.value.message.marked.endswith("use ⟦reset optimizer⟧")


def test_what_an_option_says_has_no_other_place() -> None:
    with pytest.raises(RequestError) as raised, at("small.ckpt"):
        raise RequestError("⟦step 5⟧: beyond the schedule's end")
    assert str(raised.value) == "step=5: beyond the schedule's end"
    assert raised.value.option == "step"


def test_errors_of_another_kind_keep_their_own_place() -> None:
    with pytest.raises(CheckpointError) as raised, at("optimizer 0", OptimizerError):
        raise CheckpointError("small.ckpt: ends inside a tensor")
    assert str(raised.value) == "small.ckpt: ends inside a tensor"


def test_the_cause_is_kept() -> None:
    with pytest.raises(CheckpointError) as raised, at("small.ckpt"):
        try:
            raise ValueError("no number")
        except ValueError as error:
            raise CheckpointError("its step is not a number") from error
    assert isinstance(raised.value.__cause__, ValueError)
