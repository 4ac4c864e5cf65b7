"""Growths judged by the grown model's own logits, moments, steps and losses."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.campaign import operators, optimizers, runs
from tests.campaign.commands import Ending, grown, has_separate
from tests.campaign.files import FORMATS, STEPLESS, Reading, State, read, save
from tests.campaign.operators import Operator
from tests.campaign.outcome import FindingError
from tests.campaign.precision import EXACT, difference, digits, shaken, unit
from tests.campaign.resumption import records, resumed
from tests.campaign.runs import Run, scheduled
from tests.campaign.subjects import EXPERTS, GEMMA, RMS_NORM, batches, widened

UNNAMED = ("one", "by dimension")
FLOORS = {
    "exp_avg": 1e-16,
    "momentum_buffer": 1e-16,
    "exp_avg_sq": 1e-19,
}  # what rounding leaves where nothing has a gradient
RHO = {"width": 1.776, "depth": 1.412}


def tried(seed: int, directory: Path, told: dict[str, Any]) -> None:
    """One draw. Raises FindingError or RefusedError."""
    random = Random(f"growth {seed}")
    run = runs.drawn(random)
    form = random.choice(FORMATS) if run.recipe.kind != "Muon" else "lightning"
    if form == "trainer":
        run = replace(run, recipe=replace(run.recipe, grouping=random.choice(UNNAMED)))  # the Trainer writes no names
    operator = operators.drawn(random, run.subject)
    if form in STEPLESS:
        operator = replace(operator, step="keep")
    second = operators.drawn(random, run.subject) if random.random() < 0.2 else None
    told |= {"run": run.told(), "format": form, "operator": asdict(operator)}
    state = runs.trained(run)
    source = save(directory / "small", state, form)
    ending = grown(operator.command, source, directory / "grown", operator.options)
    reading = read(directory / "grown", form)
    small, wide = widened(copy.deepcopy(state.model)), copy.deepcopy(reading.model)  # the others are trained on
    _function(run, operator, ending, small, reading)
    _exact_storage(run, operator, state, reading)
    if form != "huggingface":
        _optimizer(run, operator, state, reading, directory, form)
    if second is not None and second.kind == "depth" and operator.kind == "depth":
        second = None  # its list would name layers of the small model
    if second is not None and form in STEPLESS:
        second = replace(second, step="keep")
    if second is not None:
        told["second"] = asdict(second)
        ending = grown(second.command, directory / "grown", directory / "again", second.options)
        _function(run, second, ending, wide, read(directory / "again", form))


def _function(run: Run, operator: Operator, ending: Ending, small: Any, reading: Reading) -> None:
    """Logits of both models in float64, on sequences longer than any window."""
    before, after = small.num_parameters(), reading.model.num_parameters()
    if after <= before:
        raise FindingError(f"{after} parameters, {before} before")
    if run.subject.model_type in EXPERTS and run.dtype not in ("float64", "float32"):
        return  # rounding may turn a router's choice
    off, allowed = difference(small, reading.model), EXACT
    if run.dtype == "float64":  # the small one may be a grown one with noise
        allowed = max(allowed, 100 * shaken(small, unit(run.dtype)))
    if run.dtype != "float64":
        conditions = [shaken(small, unit(run.dtype))]
        if not operator.is_separated or has_separate():
            conditions.append(shaken(reading.model, unit(run.dtype)))
        allowed = 20 * max(conditions) + EXACT
    if operator.is_separated and (run.dtype == "float64" or (operator.is_noisy and "noise" in ending.err)):
        # noise is as exact as its own condition allows
        allowed = max(allowed, 100 * shaken(reading.model, unit(run.dtype)))
    if not off <= allowed:
        raise FindingError(f"logits differ by {off:.2e} of the largest, allowed {allowed:.2e}")


def _exact_storage(run: Run, operator: Operator, state: State, reading: Reading) -> None:
    """By a power of two, without noise, every entry is an old one times a power of two, or 0."""
    splits = has_separate() and operator.separation in ("default", "split")
    plain = operator.separation == "none" or splits
    if operator.kind != "factor" or operator.factor == 3 or not plain or run.subject.model_type in (*GEMMA, "t5"):
        return  # 1 + gain, and T5's factors of √2
    for name, tensor in state.model.state_dict().items():
        other = reading.tensors.get(name)
        if other is None or other.dtype != tensor.dtype:
            raise FindingError(f"{name} is {other if other is None else other.dtype}, expected {tensor.dtype}")
        strange = digits(other) - digits(tensor) if run.dtype != "float16" else set()  # its small ones lose digits
        if strange:
            raise FindingError(f"{len(strange)} entries of {name} are not an old one times a power of two")


def _optimizer(run: Run, operator: Operator, state: State, reading: Reading, directory: Path, form: str) -> None:
    optimizers_ = resumed(reading, run.recipe)
    found = records(optimizers_, reading)
    small_records = _by_name(state)
    _clocks(operator, small_records, found)
    if operator.is_separated:
        _as_without_separation(operator, found, directory, form, run)
    elif run.is_still and _is_known(run, operator):
        _as_built_anew(run, operator, reading, found)
    elif not run.is_still and run.dtype == "float64" and _keeps_losses(run, operator):
        _same_losses(run, operator, state, reading, optimizers_)


def _by_name(state: State) -> dict[str, dict[str, Any]]:
    found = {id(parameter): record for one in state.optimizers for parameter, record in one.state.items()}
    return {name: found[id(p)] for name, p in state.model.named_parameters() if id(p) in found}


def _clocks(operator: Operator, small: dict[str, Any], found: dict[str, Any]) -> None:
    """Adam's steps: the old ones, or the asked one where it is earlier; a new layer's are 0."""
    if not found and small:
        raise FindingError("the grown optimizer has no state")
    clocks = sorted({float(record["step"]) for record in small.values() if "step" in record})
    if not clocks:
        return
    old = max(clocks)
    expected = {"keep": old, "auto": old / RHO[operator.command]}.get(operator.step)
    expected = min(old, float(operator.step)) if expected is None else expected
    for name, record in found.items():
        if "step" not in record:
            continue  # Muon's have none
        step = float(record["step"])
        if not (abs(step - expected) < 1 and (operator.step == "auto" or step == expected)) and not (
            step == 0 and (operator.kind == "depth" or 0 in clocks)
        ):
            raise FindingError(f"{name} has step {step}, expected {expected}")


def _as_without_separation(operator: Operator, found: dict[str, Any], directory: Path, form: str, run: Run) -> None:
    """Moments belong to the copied weights: separation changes none but those that hold the weights' size."""
    plain = replace(operator, separation="none")
    grown(plain.command, directory / "small", directory / "plain", plain.options)
    other = read(directory / "plain", form)
    expected = records(resumed(other, run.recipe), other)
    for name, record in expected.items():
        for key, value in record.items():
            same = torch.equal(torch.as_tensor(value), torch.as_tensor(found[name][key]))
            # separated weights are larger
            by_size = key == "RMS" or (key == "exp_avg" and run.recipe.kind in optimizers.BY_SIZE)
            if not same and not by_size:
                raise FindingError(f"{key} of {name} depends on the separation")


def _is_known(run: Run, operator: Operator) -> bool:
    """Whether the real optimizer, run anew over the same batches, must build the stored state."""
    if operator.kind == "kv":
        return False  # copies of a key's head serve different queries, so they share its gradient unequally
    if operator.kind == "pad":
        if run.recipe.kind in (*optimizers.COUPLED, *optimizers.BY_EPS):
            return False
        return run.subject.model_type in RMS_NORM and not run.recipe.is_factored and run.recipe.kind != "Muon"
    if run.recipe.is_factored:
        return operator.kind in ("factor", "depth")
    if run.recipe.kind in (*optimizers.COUPLED, *optimizers.BY_EPS):
        return operator.kind == "depth" or (operator.how == "tile" and operator.rule == "mup")
    return True


def _as_built_anew(run: Run, operator: Operator, reading: Reading, found: dict[str, Any]) -> None:
    """Learning rate 0: the real optimizer in the grown model over the small run's batches, entry by entry."""
    anew = copy.deepcopy(reading.model)
    fresh = resumed(replace(reading, model=anew), run.recipe)
    for one in fresh:
        one.state.clear()
    optimizers.train(anew, fresh, batches(run.steps, seed=1))
    expected = records(fresh, replace(reading, model=anew))
    moved = operator.step != "keep"
    for name, record in expected.items():
        if name not in found:
            raise FindingError(f"{name} has no record")
        is_new = operator.kind == "depth" and _is_new(found[name])
        for key, value in record.items():
            if key in ("step", "mu_product") or (moved and key == "RMS") or value is None:
                continue
            tensor, stored = torch.as_tensor(value).double(), torch.as_tensor(found[name][key]).double()
            if is_new:
                if bool(stored.abs().max() > 0) and key != "RMS":
                    raise FindingError(f"{key} of {name}, a new layer's, is not zero")
            elif (wrong := _worst(stored, tensor, operator, FLOORS.get(key, 1e-26))) is not None:
                raise FindingError(f"{key} of {name}: {wrong}")


def _is_new(record: dict[str, Any]) -> bool:
    """A new layer's record: at step 0, or nothing but zeros where there is no step."""
    if "step" in record:
        return float(record["step"]) == 0
    return all(not bool(one.any()) for key, one in record.items() if isinstance(one, torch.Tensor) and key != "RMS")


def _worst(stored: torch.Tensor, expected: torch.Tensor, operator: Operator, floor: float) -> str | None:
    """Entries that differ by more than rounding; padding leaves new entries at zero."""
    if stored.shape != expected.shape:
        return f"shape {list(stored.shape)}, expected {list(expected.shape)}"
    if operator.kind == "pad":
        expected = torch.where(stored == 0, torch.zeros(()), expected)
        if "--fresh-moments" in operator.words:
            return None
    scale = expected.abs().max()
    wrong = (stored - expected).abs() > 1e-8 * expected.abs() + 1e-10 * scale + floor
    if not bool(wrong.any()):
        return None
    at = int((stored - expected).abs().flatten().argmax())
    share = f"{int(wrong.sum())} of {wrong.numel()} entries"
    return f"{share}; {float(stored.flatten()[at]):.6e}, the real optimizer has {float(expected.flatten()[at]):.6e}"


def _keeps_losses(run: Run, operator: Operator) -> bool:
    if operator.step != "keep" or operator.kind == "pad":
        return False
    if operator.kind == "depth":
        return False  # new layers train from the first step on
    return operator.rule == "mup" and optimizers.keeps_trajectory(
        run.recipe,
        run.subject.model_type,
        operator.how,
        is_whole=operator.kind == "factor",
        is_tied=run.subject.is_tied,
    )


def _same_losses(run: Run, operator: Operator, state: State, reading: Reading, opts: list[Any]) -> None:
    """`mup`: ten more real steps of both, schedulers included, have the same losses."""
    schedulers = scheduled(run.schedule, opts) if reading.schedulers else []  # making one sets the rates
    small_schedulers = list(state.schedulers) if reading.schedulers else []  # a format may have no place for them
    for one, optimizer, stored in zip(schedulers, opts, reading.schedulers, strict=False):
        rates = [group["lr"] for group in resumed(reading, run.recipe)[opts.index(optimizer)].param_groups]
        one.load_state_dict(dict(stored))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    if len(reading.schedulers) != len(schedulers):
        raise FindingError(f"{len(reading.schedulers)} schedulers are stored, {len(schedulers)} were")
    samples = batches(10, seed=3)
    expected = optimizers.train(state.model, state.optimizers, samples, small_schedulers)
    found = optimizers.train(reading.model, opts, samples, schedulers)
    off = max(abs(one - other) for one, other in zip(expected, found, strict=True))
    if not off <= optimizers.tolerance_of_losses(run.recipe):
        raise FindingError(f"losses under mup part by {off:.2e} in ten steps ({operator.how})")
