"""Errors of measures are the same however they are drawn, and what a process was set to before stays."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
from statistics import fmean, stdev

import pytest
from lm_eval.api.metrics import bootstrap_stderr, perplexity

from ckptgrow.evaluate.harness import ONE_PROCESS, bootstrapping


@pytest.mark.parametrize("is_quick", [True, False])
def test_errors_are_those_of_lm_evals_own_draws_without_a_fork(is_quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [-0.1 * (index % 7) - 0.3 for index in range(40)]
    draws = (random.Random(chunk) for chunk in range(2))
    resampled = [math.exp(-fmean(draw.choices(losses, k=40))) for draw in draws for _ in range(1000)]
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked a process that has threads"))
    before = multiprocessing.get_start_method(allow_none=True), os.environ.get(ONE_PROCESS)
    with bootstrapping(is_quick=is_quick):
        assert bootstrap_stderr(perplexity, losses, iters=2000) == pytest.approx(stdev(resampled), rel=1e-12)
    assert (multiprocessing.get_start_method(allow_none=True), os.environ.get(ONE_PROCESS)) == before
