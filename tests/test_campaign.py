"""The random campaign: fixed draws of every kind, its own oracle, and its command."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.campaign import __main__ as command
from tests.campaign import runs, subjects, tampers
from tests.campaign.draws import KINDS, outcome
from tests.campaign.files import FORMATS, read, save
from tests.campaign.outcome import Outcome
from tests.campaign.precision import difference

pytestmark = pytest.mark.filterwarnings("ignore")
PASSING = {
    "growth": (0, 10, 15, 20, 30, 65),
    "schedules": (1, 6, 16, 21, 26, 60),
    "verify": (7, 17, 57, 62, 6197, 952862, 955787, 957372, 991277),
    "tamper": (18, 23, 43, 6183, 990958),
    "formats": (4, 9, 14, 29),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seeds in PASSING.items() for seed in seeds])
def test_fixed_draws_are_right(kind: str, seed: int) -> None:
    done = outcome(kind, seed)
    assert done.verdict == "right", (done.what, done.redo)


def test_every_kind_has_fixed_draws() -> None:
    assert PASSING.keys() == KINDS.keys() and all(PASSING.values())


def test_a_draw_depends_on_its_kind_and_seed_alone() -> None:
    first, second = outcome("schedules", 3), outcome("schedules", 3)
    assert first.draw == second.draw and first.verdict == second.verdict


def test_every_family_is_drawn_and_computes_in_float64() -> None:
    for number, family in enumerate(subjects.FAMILIES):
        subject = subjects.drawn(Random(number), (family,))
        model = subjects.weighted(subject)
        loss = subjects.loss_of(model, subjects.batches(1, 0)[0])
        assert loss.dtype == torch.float64 and bool(loss.isfinite()), subject
        assert all(bool((parameter != 0).all()) for parameter in model.parameters()), subject


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_reads_back_what_was_written(form: str, tmp_path: Path) -> None:
    state = runs.trained(runs.drawn(Random(1), ("float64",), ("llama",)))
    reading = read(save(tmp_path / "small", state, form), form)
    assert difference(state.model, reading.model) == 0.0
    assert len(reading.optimizers) == (form != "huggingface")


@pytest.mark.sampled(10)
@pytest.mark.parametrize("tamper", tampers.ALL, ids=lambda one: one.__name__)
def test_a_tampering_says_what_it_changes_and_changes_it(tamper: tampers.Tamper, tmp_path: Path) -> None:
    state = runs.trained(runs.drawn(Random(4), ("float64",), ("llama",)))
    path = save(tmp_path / "small", state, "lightning")
    tree = torch.load(path, weights_only=True)
    small = torch.load(path, weights_only=True)
    said = tamper(tampers.Target(tree, Random(0), "llama", small, is_padded=False))
    assert said is None or repr(tree) != repr(torch.load(path, weights_only=True)) or _differs(tree, path), said


def _differs(tree: dict[str, Any], path: Path) -> bool:
    old = torch.load(path, weights_only=True)
    return any(not torch.equal(tree["state_dict"][name], tensor) for name, tensor in old["state_dict"].items()) or any(
        not torch.equal(torch.as_tensor(value), torch.as_tensor(tree["optimizer_states"][0]["state"][number][key]))
        for number, record in old["optimizer_states"][0]["state"].items()
        for key, value in record.items()
    )


def test_the_command_goes_on_behind_the_last_seed_and_says_how_to_repeat_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "draws.jsonl"
    monkeypatch.setattr(command, "outcome", lambda kind, seed: Outcome(kind, seed, "finding", "made up", {"a": 1}))
    monkeypatch.setattr("sys.argv", ["campaign", "--draws", "2", "--out", str(out)])
    assert command.main() == 1
    assert command.main() == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3]
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("python -m tests.campaign --only growth --seed 0 --draws 1")
