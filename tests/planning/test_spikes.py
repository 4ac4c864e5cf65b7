"""Spikes go, noise stays: what is left of a noisy curve has the mean of all of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptgrow.cli import run
from ckptgrow.planning.spikes import RULES
from tests.helpers.curves import SMALL, Vector, power_law, write


def noise(seed: int, num: int, correlation: float, tails: float) -> Vector:
    """A first-order process of standard deviation 1; `tails` are the degrees of freedom of its steps."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_t(tails, num) / (tails / (tails - 2)) ** 0.5
    for place in range(1, num):
        drawn[place] = correlation * drawn[place - 1] + (1 - correlation**2) ** 0.5 * drawn[place]
    return drawn


CURVES = {
    "seed": st.integers(0, 10**6),
    "num": st.integers(60, 400),
    "correlation": st.floats(0.0, 0.9),
    "size": st.floats(0.001, 0.05),
}


@given(**CURVES, tails=st.sampled_from([30.0, 6.0]))
@settings(max_examples=60, deadline=None, derandomize=True)  # true of most draws, not of all
def test_symmetric_noise_is_kept_without_bias(
    seed: int, num: int, correlation: float, size: float, tails: float
) -> None:
    """Its mean moves by less than a twelfth of a deviation, a mean of 150; the paper's rule moves it by up to one."""
    drawn = noise(seed, num, correlation, tails)
    losses = power_law(*SMALL, np.arange(1.0, num + 1) * 100) * np.exp(size * drawn)
    kept = RULES["robust"](losses)
    assert kept.mean() >= 0.93
    assert abs(drawn[kept].mean() - drawn.mean()) < 1 / 12


@given(**CURVES, where=st.floats(0.1, 1.0), length=st.integers(1, 5), height=st.floats(0.4, 3.0))
@settings(max_examples=60, deadline=None, derandomize=True)  # true of most draws, not of all
def test_spikes_go_and_nearly_all_else_stays(
    seed: int, num: int, correlation: float, size: float, where: float, length: int, height: float
) -> None:
    """Of five evaluations or fewer, eight deviations high or more, anywhere after the first falls, the end included."""
    drawn = noise(seed, num, correlation, 30.0)
    first = min(num - length, int(where * num))
    spike = slice(first, first + length)
    drawn[spike] = np.maximum(drawn[spike], 0.0) + height / size
    kept = RULES["robust"](power_law(*SMALL, np.arange(1.0, num + 1) * 100) * np.exp(size * drawn))
    assert not kept[spike].any()
    assert kept.sum() >= 0.93 * (num - length)


def test_noise_is_no_reason_to_be_at_an_earlier_step_and_what_is_left_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = np.arange(100.0, 20_001.0, 100.0)
    losses = power_law(*SMALL, steps) * np.exp(0.02 * noise(4, len(steps), 0.0, 30.0))
    losses[120] *= 1.5
    log = str(write(tmp_path / "log.csv", steps.tolist(), losses.tolist()))
    for rule in RULES:
        assert run(["plan", "watch", log, "--operator", "width", "--spikes", rule, "--json"]) == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        num = found["left_out"]["spikes"]
        assert found["left_out"]["evaluations"] == 200 and num == (~RULES[rule](losses)).sum()
        assert (f"{num:,} as spikes (--spikes {rule})" in printed.err) == (num > 0)
        assert ("noise rather" in printed.err) == (rule == "paper")
        assert num in {"robust": range(1, 4), "none": range(1), "paper": range(100, 190)}[rule]
        assert (found["step"] == 20_000) == (rule != "paper")
    assert run(["plan", "watch", log, "--operator", "width", "--spikes", "all"]) == 2
    assert "--spikes all: expected robust or paper or none" in capsys.readouterr().err


@pytest.mark.parametrize("rule", RULES)
def test_smooth_curves_keep_everything_under_every_rule(rule: str) -> None:
    for num in (10, 11, 20, 200):
        losses = power_law(*SMALL, np.arange(1.0, num + 1) * 50)
        assert RULES[rule](losses).all()  # type: ignore[index]
