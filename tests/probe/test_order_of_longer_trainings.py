"""What a probe finds is what longer trainings find: its order against the order at eight times as many steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ckptgrow.data.preparation import prepare
from ckptgrow.demo.demo_plan import SMALL
from ckptgrow.demo.offline_text import write_offline_text
from ckptgrow.probe.candidates import named
from ckptgrow.probe.entrants import ProbeRequest
from ckptgrow.probe.probing import probe
from ckptgrow.probe.rungs import groups_of
from ckptgrow.probe.standings import ranked
from ckptgrow.train.training_run import train

RUNG, LONGER = 128, 8
SIZES = {"hidden_size": 32, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 2}


def measured(work: Path, number: int) -> dict[int, np.ndarray]:
    """A candidate's held-out losses by steps."""
    files = (work / f"candidate-{number}-0").glob("held-out-*.npy")
    return {int(one.stem.rpartition("-")[2]): np.load(one) for one in files}


@pytest.mark.slow
def test_the_order_at_the_last_rung_is_that_of_eight_times_as_many_steps(tmp_path: Path) -> None:
    """In 80 % of the pairs at least whose interval excludes zero; all recipes of the table, on English text."""
    write_offline_text(tmp_path / "text.jsonl")
    prepare([str(tmp_path / "text.jsonl")], tmp_path / "data", val_fraction=0.1)
    given = {
        "data": tmp_path / "data",
        "out": tmp_path / "small",
        "config": {**SMALL, **SIZES},
        "train_steps": 2500,
        "batch_size": 8,
        "seqlen": 64,
        "lr": 3e-3,
        "schedule": "constant",
        "warmup_steps": 50,
        "val_every": 10**9,
    }
    small = train(given).checkpoint
    candidates = tuple(named([], ["width"]))
    for steps in (RUNG, LONGER * RUNG):
        request = ProbeRequest(candidates=candidates, steps=(steps,), sequences=256)
        probe(small, tmp_path / "data", tmp_path / "work", request)
    runs = {one.name: measured(tmp_path / "work", number) for number, one in enumerate(candidates)}
    later = {name: np.mean([run[step].mean() for step in groups_of(LONGER * RUNG)[-1]]) for name, run in runs.items()}
    agree: list[bool] = []
    for pair in itertools.combinations(runs, 2):
        ahead, behind = ranked({name: [runs[name]] for name in pair}, groups_of(RUNG), 0)
        if not behind.behind.holds_zero:
            agree.append(bool(later[ahead.name] < later[behind.name]))
    print(f"{sum(agree)} of {len(agree)} pairs whose interval excludes zero, of {len(runs) * (len(runs) - 1) // 2}")
    assert len(agree) >= 10 and np.mean(agree) >= 0.8
