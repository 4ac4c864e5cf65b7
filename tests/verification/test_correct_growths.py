"""No false alarm: whatever growth writes passes, over operators, rules, steps, parts left out, schedules and chains."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import CkptgrowError
from ckptgrow.verification.report import VerifyReport
from tests.helpers.correct_growths import GROWTHS, SCHEDULES, Growth, scheduled_checkpoint


def check(small: Path, grown: Path) -> VerifyReport:
    report = ckptgrow.verify(small, grown, settings=Settings(batches=1))
    assert report.passed, report.sentences
    return report


@pytest.mark.sampled(12)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rule", ["keep", "mup"])
@pytest.mark.parametrize("step", ["keep", 2, 9])
def test_every_schedule_at_every_step(tmp_path: Path, schedule: str, rule: Any, step: Any) -> None:
    small = scheduled_checkpoint(tmp_path / "small.ckpt", SCHEDULES[schedule])
    request = StateRequest(lr_rule=rule, step=step, rewarm=0 if step == "keep" else 5)
    ckptgrow.width(small, tmp_path / "grown.ckpt", request=request)
    report = check(small, tmp_path / "grown.ckpt")
    assert report.structure.lr_rule == rule


def same(step: int) -> float:
    return 1.0 / (1 + step)


@pytest.mark.parametrize("rule", ["keep", "mup"])
def test_a_function_of_the_script_moves_its_clock_and_keeps_its_rate(tmp_path: Path, rule: Any) -> None:
    small = scheduled_checkpoint(tmp_path / "small.ckpt", lambda optimizer: schedulers.LambdaLR(optimizer, same))
    ckptgrow.width(small, tmp_path / "grown.ckpt", request=StateRequest(lr_rule=rule, step=2, schedule="lambda"))
    check(small, tmp_path / "grown.ckpt")
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tree["optimizer_states"][0]["param_groups"][0]["lr"] *= 1.01
    torch.save(tree, tmp_path / "tampered.ckpt")
    assert not ckptgrow.verify(small, tmp_path / "tampered.ckpt").passed


@pytest.mark.parametrize("step", [2, 4])
def test_a_sequence_is_computed_as_far_as_no_hidden_function_has_a_say(tmp_path: Path, step: int) -> None:
    def sequence(optimizer: torch.optim.Optimizer) -> Any:
        warmup = schedulers.LinearLR(optimizer, 0.1, total_iters=4)
        return schedulers.SequentialLR(optimizer, [warmup, schedulers.LambdaLR(optimizer, same)], [5])

    small = scheduled_checkpoint(tmp_path / "small.ckpt", sequence)
    ckptgrow.width(small, tmp_path / "grown.ckpt", request=StateRequest(step=step))
    check(small, tmp_path / "grown.ckpt")
    ckptgrow.width(small, tmp_path / "later.ckpt", request=StateRequest(step=8, schedule="lambda"))
    check(small, tmp_path / "later.ckpt")


def test_a_named_function_is_computed_by_transformers(tmp_path: Path) -> None:
    from transformers import get_scheduler

    small = scheduled_checkpoint(tmp_path / "small.ckpt", lambda optimizer: get_scheduler("cosine", optimizer, 2, 20))
    request = StateRequest(step=4, schedule="cosine:warmup=2,total=20")
    ckptgrow.depth(small, tmp_path / "grown.ckpt", request=request)
    check(small, tmp_path / "grown.ckpt")
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tree["optimizer_states"][0]["param_groups"][0]["lr"] *= 1.01
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(small, tmp_path / "tampered.ckpt")
    assert any(line.startswith("lr of group 0") for line in report.structure.problems), report.sentences


RULES = [
    ("keep", "mup"),
    pytest.param(("keep", "keep"), marks=pytest.mark.slow),
    pytest.param(("mup", "mup"), marks=pytest.mark.slow),
]
UNEVEN: dict[str, Growth] = {
    "uneven": lambda a, b, request: ckptgrow.width(a, b, ffn=17, request=request),
    "pad": lambda a, b, request: ckptgrow.width(a, b, hidden=12, how="pad", request=request),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("growth", {**GROWTHS, **UNEVEN})
@pytest.mark.parametrize("part", [(), ("optimizer",), ("schedule",), ("optimizer", "schedule")])
def test_parts_that_begin_anew_are_told_and_nothing_else_may_be_missing(
    tmp_path: Path, growth: str, part: Sequence[Any]
) -> None:
    small = scheduled_checkpoint(tmp_path / "small.ckpt", SCHEDULES["linear"], rng={"seed": 7})
    grow = {**GROWTHS, **UNEVEN}[growth]
    grow(small, tmp_path / "grown.ckpt", StateRequest(reset=tuple(part)))
    report = check(small, tmp_path / "grown.ckpt")
    assert any("--reset" in line for line in report.sentences) == bool(part)
    for key, reset in (("optimizer_states", "optimizer"), ("lr_schedulers", "schedule")):
        tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
        other = torch.load(small, weights_only=True)[key] if reset in part else []
        torch.save({**tree, key: other}, tmp_path / "tampered.ckpt")
        try:
            assert not ckptgrow.verify(small, tmp_path / "tampered.ckpt").passed
        except CkptgrowError:
            continue  # the small optimizer does not fit the grown model


def test_what_the_user_dropped_is_told_and_what_he_kept_may_not_be_missing(tmp_path: Path) -> None:
    small = scheduled_checkpoint(tmp_path / "small.ckpt", SCHEDULES["linear"], rng={"seed": 7}, other={"a": 1})
    ckptgrow.width(small, tmp_path / "grown.ckpt", request=StateRequest(drop=("rng",)))
    report = check(small, tmp_path / "grown.ckpt")
    assert any("--drop" in line and "rng" in line for line in report.sentences)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    del tree["other"]
    torch.save(tree, tmp_path / "tampered.ckpt")
    assert not ckptgrow.verify(small, tmp_path / "tampered.ckpt").passed


@pytest.mark.sampled(6)
@pytest.mark.parametrize("chain", list(itertools.permutations(GROWTHS, 2)), ids=" then ".join)
@pytest.mark.parametrize("rules", RULES, ids=" then ".join)
def test_two_growths_verify_from_end_to_end(tmp_path: Path, chain: tuple[str, ...], rules: tuple[Any, ...]) -> None:
    paths = [scheduled_checkpoint(tmp_path / "0.ckpt", SCHEDULES["cosine"]), tmp_path / "1.ckpt", tmp_path / "2.ckpt"]
    for index, (growth, rule) in enumerate(zip(chain, rules, strict=True)):
        request = StateRequest(lr_rule=rule, step=4 - index)
        GROWTHS[growth](paths[index], paths[index + 1], request)
        check(paths[index], paths[index + 1])
    check(paths[0], paths[2])


@pytest.mark.parametrize("steps", [(4, 8), (2, 6), (3, 3), (9, 2)], ids=str)
def test_records_are_as_old_as_the_earliest_step_of_the_chain(tmp_path: Path, steps: tuple[int, int]) -> None:
    paths = [scheduled_checkpoint(tmp_path / "0.ckpt", SCHEDULES["linear"]), tmp_path / "1.ckpt", tmp_path / "2.ckpt"]
    for index, step in enumerate(steps):
        ckptgrow.width(paths[index], paths[index + 1], request=StateRequest(step=step))
    check(paths[0], paths[2])


@pytest.mark.slow
def test_averages_that_grow_pass_with_every_separation_and_with_pads(tmp_path: Path) -> None:
    small = scheduled_checkpoint(tmp_path / "small.ckpt", SCHEDULES["linear"])
    tree = torch.load(small, weights_only=True)
    averages = {f"ema.{name}": 0.9 * one + 0.01 for name, one in tree["state_dict"].items()}
    averages["ema.model.lm_head.weight"] = averages["ema.model.transformer.wte.weight"]
    tree["state_dict"] = {**tree["state_dict"], **averages, "ema.n_averaged": torch.tensor(7)}
    torch.save(tree, small)
    for name, grow in {**GROWTHS, **UNEVEN}.items():
        grow(small, tmp_path / f"{name}.ckpt", StateRequest())
        check(small, tmp_path / f"{name}.ckpt")
        for change in (torch.zeros_like, lambda one: one * 1.001, lambda one: one.flip(-1)):
            tampered = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
            state = tampered["state_dict"]
            at = next(key for key in state if key.startswith("ema.") and key.endswith("h.0.mlp.c_fc.weight"))
            state[at] = change(state[at])
            torch.save(tampered, tmp_path / "tampered.ckpt")
            assert not ckptgrow.verify(small, tmp_path / "tampered.ckpt").passed, name


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *(pytest.param(one, marks=pytest.mark.slow) for one in (torch.float32, torch.float16))],
    ids=str,
)
def test_averages_in_low_precision_are_judged_entry_by_entry(tmp_path: Path, dtype: torch.dtype) -> None:
    small = scheduled_checkpoint(tmp_path / "small.ckpt", SCHEDULES["none"])
    tree = torch.load(small, weights_only=True)
    averages = {f"ema.{name}": (0.9 * one + 0.01).to(dtype) for name, one in tree["state_dict"].items()}
    averages["ema.model.lm_head.weight"] = averages["ema.model.transformer.wte.weight"]
    tree["state_dict"] = {**tree["state_dict"], **averages, "ema.n_averaged": torch.tensor(7)}
    torch.save(tree, small)
    for name, grow in GROWTHS.items():
        grow(small, tmp_path / f"{name}.ckpt", StateRequest())
        check(small, tmp_path / f"{name}.ckpt")
        for ending in ("h.0.ln_1.weight", "h.0.mlp.c_fc.weight"):
            tampered = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
            at = next(key for key in tampered["state_dict"] if key.startswith("ema.") and key.endswith(ending))
            flat = tampered["state_dict"][at].view(-1)
            sizes = flat.double().abs()
            flat[int((sizes - sizes[sizes > 0].median()).abs().argmin())] *= 1.05
            torch.save(tampered, tmp_path / "tampered.ckpt")
            assert not ckptgrow.verify(small, tmp_path / "tampered.ckpt").passed, (name, ending)


DEPTHS: dict[str, dict[str, Any]] = {
    "alternate zero-output": {"factor": 2, "new": "zero-output"},
    "append zero-norm": {"factor": 2, "place": "append", "new": "zero-norm"},
    "append zero-output": {"factor": 2, "place": "append", "new": "zero-output"},
    "copy": {"factor": 2, "new": "copy"},
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("chain", list(itertools.product(DEPTHS, repeat=2)), ids=" then ".join)
def test_layers_made_from_layers_that_were_made_are_told_by_the_records(tmp_path: Path, chain: tuple[str, ...]) -> None:
    """Weights alone do not show which layer a copy of an identity was made from; they judge what the records say."""
    paths = [scheduled_checkpoint(tmp_path / "0.ckpt", SCHEDULES["none"]), tmp_path / "1.ckpt", tmp_path / "2.ckpt"]
    for index, growth in enumerate(chain):
        ckptgrow.depth(paths[index], paths[index + 1], **DEPTHS[growth])
    assert not structural(paths[0], paths[2])
    tree = torch.load(paths[2], weights_only=True)
    layers = tree["ckptgrow"]["history"][0]["layers"]
    made = next(layer for layer in layers if layer[1] != "old")
    made[0] = 1 - made[0]
    torch.save(tree, tmp_path / "tampered.ckpt")
    assert structural(paths[0], tmp_path / "tampered.ckpt")


def structural(small: Path, grown: Path) -> list[str]:
    """What is wrong but for the function, which copies change."""
    report = ckptgrow.verify(small, grown, settings=Settings(batches=1))
    wrong = [] if report.structure.passed else ["structure"]
    return [*report.structure.problems, *wrong, *(report.moments.problems if report.moments else [])]
