"""Every field of every scheduler: those of the small one, with one entry for each grown group, at the grown step.

Where a growth moved the step, torch's own scheduler is run from the small checkpoint's state to that step. What it
holds there is what the grown one must hold, and the groups' rates, betas and momenta must be what it sets. Where these
depend on a function in the user's script, only the clock moves, and the rates are those of the small checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ckptgrow.state.optimizer_state import OptimizerState
from ckptgrow.storage.tensors import InMemory, is_lazy, whole
from ckptgrow.verification.coverage import origins
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.replay import replayed
from ckptgrow.verification.trees import differences

Raw = Mapping[str, Any]
SCALED = ("base_lrs", "_last_lr", "max_lrs", "min_lrs", "_init_lrs")  # one rate a group
DEALT = ("lr_lambdas", "base_momentums", "max_momentums")  # one entry a group, the same after growth
SKIPPED_STEPS, SKIPPED_SHARE = 2, 0.02  # overflows in float16, at which schedules may not tick
ROUNDING = 1e-9  # relative, of rates in float64 that were multiplied in another order
IN_FLOAT32 = 1e-5  # the same, of rates that are tensors


@dataclass(frozen=True)
class Moved:
    """The small checkpoint's schedulers at the grown one's step, and the options that they set there.

    `options`: by the optimizer's index, one mapping for each of its groups.
    """

    states: tuple[Raw, ...]
    options: Mapping[int, Sequence[Raw]]
    is_moved: bool

    def options_of(self, optimizer: int, group: int, options: Raw) -> Raw:
        """A small group's options at the grown step; options that were tensors stay tensors."""
        if optimizer not in self.options:
            return options
        found = {key: value for key, value in self.options[optimizer][group].items() if key in options}
        return {**options, **{key: _like(options[key], value) for key, value in found.items()}}


def moved_schedules(pair: Pair, schedule: str | None) -> Moved:
    """Runs the small checkpoint's schedulers to the grown one's step, where that differs from its own."""
    old, new = pair.small.checkpoint.position.global_step, pair.grown.checkpoint.position.global_step
    raws, optimizers = pair.small.checkpoint.schedulers, pair.small.optimizers
    if old is None or new is None or old == new:
        return Moved(tuple(raws), {}, is_moved=False)
    states: list[Raw] = []
    options: dict[int, Sequence[Raw]] = {}
    for index, raw in enumerate(raws):
        place = optimizer_of(index, raws, optimizers)
        clock = _clock_at(raw, old, new)
        named = _named_function(schedule, raw)
        follows_loss = {"num_bad_epochs", "best"} <= raw.keys()
        replay = None if follows_loss or place is None else replayed(raw, optimizers[place], clock, named)
        if replay is None:
            states.append(raw if follows_loss else _with_clock(raw, clock))
            continue
        states.append(replay.state)
        if replay.options is not None and place is not None:
            options[place] = replay.options
    return Moved(tuple(states), options, is_moved=True)


def optimizer_of(index: int, schedulers: Sequence[Raw], optimizers: Sequence[OptimizerState]) -> int | None:
    """The index of the optimizer whose rates a scheduler sets; None where it is not known.

    It is the only optimizer, the one at the same place, or the only one with the scheduler's base rates.
    """
    if len(optimizers) == 1 or len(optimizers) == len(schedulers):
        return 0 if len(optimizers) == 1 else index
    bases = [_number(base) for base in schedulers[index].get("base_lrs", ())]
    found = [
        place
        for place, one in enumerate(optimizers)
        if bases == [_number(group.options.get("initial_lr")) for group in one.groups]
    ]
    return found[0] if len(found) == 1 else None


def schedule_problems(pair: Pair, moved: Moved) -> list[str]:
    """Every field of every grown scheduler that is not what it must be, in sentences."""
    grown, small = pair.grown.checkpoint.schedulers, pair.small.checkpoint.schedulers
    if len(grown) != len(small):
        return [f"{len(grown)} schedulers, expected {len(small)}"]
    problems: list[str] = []
    for index, (found, state) in enumerate(zip(grown, moved.states, strict=True)):
        place = optimizer_of(index, small, pair.small.optimizers)
        expected = state if place is None else _grown(state, *_ratios(pair, moved, place))
        exact = all(not is_lazy(one) for one in found.get("base_lrs", ()))
        problems += _field_problems(_plain(found), _plain(expected), index, ROUNDING if exact else IN_FLOAT32)
    return problems


def _field_problems(found: Raw, expected: Raw, index: int, tolerance: float) -> Iterator[str]:
    """The differences of one scheduler; rates may differ by `tolerance`, multiplied in another order."""
    yield from differences(dict(found), dict(expected), (f"scheduler {index}",), tolerance)


def _ratios(pair: Pair, moved: Moved, place: int) -> tuple[list[int], list[float]]:
    """For each grown group the index of the small group that it comes from, and the ratio of their learning rates."""
    if place >= len(pair.grown.optimizers):
        count = len(pair.small.optimizers[place].groups)
        return list(range(count)), [1.0] * count
    small, grown = pair.small.optimizers[place], pair.grown.optimizers[place]
    sources = origins(pair, small, grown)
    ratios: list[float] = []
    for group, source in zip(grown.groups, sources, strict=True):
        before = moved.options_of(place, source, small.groups[source].options) if source < len(small.groups) else {}
        key = next((key for key in ("initial_lr", "lr") if _number(before.get(key)) and key in group.options), None)
        ratios.append(1.0 if key is None else (_number(group.options[key]) or 0.0) / (_number(before[key]) or 1.0))
    return sources, ratios


def _grown(raw: Raw, sources: Sequence[int], ratios: Sequence[float]) -> dict[str, Any]:
    grown = dict(raw)
    for key in (*SCALED, *DEALT):
        values = raw.get(key)
        if isinstance(values, list) and all(source < len(values) for source in sources):
            factors = ratios if key in SCALED else [1.0] * len(sources)
            grown[key] = [_times(values[one], factor) for one, factor in zip(sources, factors, strict=True)]
    if isinstance(raw.get("_schedulers"), list):
        grown["_schedulers"] = [_grown(inner, sources, ratios) for inner in raw["_schedulers"]]
    return grown


def _clock_at(raw: Raw, old: int, new: int) -> int:
    """A scheduler's own clock at the new step: that of the run, or one that ticks at a fixed rate to it."""
    while "last_epoch" not in raw and raw.get("_schedulers"):
        raw = raw["_schedulers"][0]
    clock = raw.get("last_epoch")
    if clock is None or abs(clock - old) <= max(SKIPPED_STEPS, SKIPPED_SHARE * old):
        return new
    return new * clock // old if old else new


def _with_clock(raw: Raw, clock: int) -> dict[str, Any]:
    """A state that cannot be run, with only its clock set."""
    if "last_epoch" not in raw:
        return dict(raw)
    counted = {"_step_count": raw["_step_count"] + clock - raw["last_epoch"]} if "_step_count" in raw else {}
    return {**raw, "last_epoch": clock, **counted}


def _named_function(schedule: str | None, raw: Raw) -> Callable[[int], float] | None:
    """The function of a transformers schedule that the history names, as `NAME:key=number,…`; None for a user's own."""
    name, _, rest = (schedule or "lambda").partition(":")
    if name == "lambda":
        return None
    from transformers import get_scheduler

    options = {key.strip(): float(value) for key, _, value in (part.partition("=") for part in rest.split(",") if part)}
    counts = {key: int(value) for key, value in options.items() if key.endswith("steps") or key in ("warmup", "total")}
    others = {key: counts.get(key, value) for key, value in options.items() if key not in ("warmup", "total")}
    peak = max((_number(base) or 0.0 for base in raw.get("base_lrs", ())), default=0.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = get_scheduler(name, optimizer, counts.get("warmup"), counts.get("total"), others)
    return scheduler.lr_lambdas[0] if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR) else None


def _plain(value: Any) -> Any:
    """A tree of values with its tensors as numbers or lists."""
    if is_lazy(value):
        return _plain(whole(value))
    if isinstance(value, torch.Tensor):
        return float(value) if not value.shape else value.tolist()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _times(value: Any, factor: float) -> Any:
    if factor == 1 or value is None:
        return value
    return InMemory(whole(value) * factor) if is_lazy(value) else value * factor


def _like(old: Any, new: Any) -> Any:
    if is_lazy(old):
        return InMemory(torch.full_like(whole(old), float(new)))
    return tuple(new) if isinstance(old, tuple | list) else new


def _number(value: Any) -> float | None:
    return float(whole(value)) if is_lazy(value) else value
