"""The rate rises again right after a growth, over a share of the run, where nothing says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import StateRequest
from tests.helpers.training_runs import config_file, losses, tiny_data, train_here

TOTAL, GROWN_AT = 100, 10  # steps; 3 % of all are 3
Grow = Callable[[Path, Path], object]


def wide(small: Path, grown: Path) -> None:
    ckptgrow.width(small, grown, factor=2)


def deep(small: Path, grown: Path) -> None:
    ckptgrow.depth(small, grown)


def both(small: Path, grown: Path) -> None:
    ckptgrow.width(small, grown.with_name("wide.ckpt"), factor=2)
    ckptgrow.depth(grown.with_name("wide.ckpt"), grown)


def with_tokens(small: Path, grown: Path) -> None:
    ckptgrow.vocab(small, grown, size=300)


def risen(small: Path, grown: Path) -> None:
    ckptgrow.width(small, grown, factor=2, request=StateRequest(rewarm=5))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def small(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small")
    course = [f"--train-steps={TOTAL}", "--schedule=constant", "--warmup-steps=2", f"--stop-at={GROWN_AT}"]
    train_here([f"--data={data}", f"--config={config_file(out)}", *course, "--batch-size=2", f"--out={out / 'run'}"])
    return out / "run" / "checkpoints" / "last.ckpt"


def gone_on(data: Path, start: Path, out: Path, *options: str) -> tuple[list[float], Any]:
    """The rates of the next steps, and what the last checkpoint says of a rise."""
    train_here([f"--data={data}", f"--resume={start}", f"--out={out}", "--stop-at=20", "--save-every=1", *options])
    last = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    return list(losses(out, "lr").values()), last.get("ckptgrow", {}).get("rewarm")


@pytest.mark.parametrize(
    ("grow", "options", "steps"),
    [
        (wide, (), 3),
        (deep, (), 3),
        (both, (), 3),
        (wide, ("--rewarm=0",), 0),
        (wide, ("--rewarm=7",), 7),
        (risen, (), 5),
        (risen, ("--rewarm=0",), 0),
        (with_tokens, (), 0),
        (wide, ("--rewarm-new=1.3,4",), 0),
        (wide, ("--warmup-steps=30",), 0),  # it still rises for the first time
    ],
)
def test_the_rate_rises_over_a_share_of_the_run_where_nothing_says_otherwise(
    tmp_path: Path, data: Path, small: Path, grow: Grow, options: tuple[str, ...], steps: int
) -> None:
    grow(small, tmp_path / "grown.ckpt")
    rates, rise = gone_on(data, tmp_path / "grown.ckpt", tmp_path / "out", *options)
    peak = torch.load(small, weights_only=True)["lr_schedulers"][0]["base_lrs"][0]
    if "--warmup-steps=30" in options:
        assert rates == pytest.approx([peak * (step + 1) / 30 for step in range(GROWN_AT, 20)], rel=1e-6)
    else:
        assert rates == pytest.approx([peak * min(1.0, (step + 1) / max(1, steps)) for step in range(10)], rel=1e-6)
    assert rise == ({"start": GROWN_AT, "steps": steps} if steps else None)


def test_what_was_trained_since_does_not_rise_anew_and_a_rise_that_was_broken_off_goes_on(
    tmp_path: Path, data: Path, small: Path
) -> None:
    wide(small, tmp_path / "grown.ckpt")
    rates, _ = gone_on(data, tmp_path / "grown.ckpt", tmp_path / "out")
    for step in (1, 5):
        middle = tmp_path / "out" / "checkpoints" / f"step-{GROWN_AT + step}.ckpt"
        assert gone_on(data, middle, tmp_path / f"from-{step}")[0] == pytest.approx(rates[step:], rel=1e-6)
    assert gone_on(data, small, tmp_path / "small")[0] == pytest.approx([rates[-1]] * 10, rel=1e-6)


def test_the_rise_is_told(tmp_path: Path, data: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide(small, tmp_path / "grown.ckpt")
    gone_on(data, tmp_path / "grown.ckpt", tmp_path / "out")
    assert "rises again over 3 steps after growth, 3 % of the run; --rewarm 0 for none" in capsys.readouterr().out
