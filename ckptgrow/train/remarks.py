"""Remarks on what a run will do that its user may not expect, and refusals of settings that cannot be meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptgrow.errors import RequestError
from ckptgrow.state.train_schedule import NEW_RISE, NewRise
from ckptgrow.train.settings import WHOLE_BATCH, TrainSettings


def check_lengths(settings: TrainSettings, given: Mapping[str, Any], start: int) -> None:
    """Raises RequestError where a rise of the learning rate is asked for that is longer than the run.

    `start`: the step at which the run begins.
    """
    total = settings.train_steps
    if given.get("warmup_steps") is not None and settings.warmup_steps > total:
        raise RequestError(
            f"⟦warmup_steps {settings.warmup_steps}⟧: the run has {total} steps, expected at most that; the learning "
            "rate would never rise to its peak"
        )
    if settings.rewarm and start + settings.rewarm > total:
        raise RequestError(
            f"⟦rewarm {settings.rewarm}⟧: the run has {total - start} steps from step {start} on, expected at most "
            "that; the learning rate would never rise to its peak"
        )
    if settings.rewarm_new is not None and start + settings.rewarm_new[1] > total:
        peak, steps = settings.rewarm_new
        raise RequestError(
            f"⟦rewarm_new {peak:g},{steps}⟧: the run has {total - start} steps from step {start} on, expected at most "
            "that; the new entries' rate would never rise to its peak"
        )


def remarks(settings: TrainSettings, stored: Mapping[str, Any], growth: Mapping[str, Any]) -> list[str]:
    """Sentences; `stored` are the settings in the checkpoint that the run goes on from, `growth` what it records of its
    growths and of rises of rates.
    """
    rewarm = growth.get("rewarm")
    found = [_of_warmup(settings), _of_rewarming(settings, rewarm), _of_batch(settings, stored)]
    return [one for one in [*found, _of_new_entries(growth), *_of_growing(settings)] if one]


def _of_warmup(settings: TrainSettings) -> str:
    warmup, total = settings.warmup_steps, settings.train_steps
    if warmup > total:
        return (
            f"warm-up: {warmup:,} steps, as the checkpoint's run had, are more than this run's {total:,}: the "
            "learning rate never rises to its peak; --warmup-steps shortens it"
        )
    return ""


def _of_rewarming(settings: TrainSettings, rewarm: Mapping[str, Any] | None) -> str:
    if not rewarm or int(rewarm["start"]) + int(rewarm["steps"]) <= settings.train_steps:
        return ""
    return (
        f"re-warm-up: {int(rewarm['steps']):,} steps from step {int(rewarm['start']):,} on, as the checkpoint says, "
        f"end after this run, at step {settings.train_steps:,}: the learning rate never rises to its peak"
    )


def _of_new_entries(growth: Mapping[str, Any]) -> str:
    if NEW_RISE not in growth:
        return ""
    rise = NewRise.of(growth[NEW_RISE])
    return (
        f"new entries: {rise.factor:.4g} times the learning rate, rising to {rise.peak:g} times over {rise.steps:,} "
        f"steps, of which {min(rise.done, rise.steps):,} are done"
    )


def _of_batch(settings: TrainSettings, stored: Mapping[str, Any]) -> str:
    before, now = stored.get(WHOLE_BATCH), settings.whole_batch
    split = f"{settings.batch_size} × {settings.grad_accum} micro-batches on {settings.num_devices} devices"
    if before is None:
        return f"batch: {now:,} sequences a step, {split}" if stored and settings.num_devices > 1 else ""
    if before != now:
        return f"batch: {now:,} sequences a step, {split}, where the checkpoint's run had {before:,}"
    sizes = tuple(stored.get(name) for name in ("batch_size", "grad_accum"))
    if sizes != (settings.batch_size, settings.grad_accum):
        return f"batch: {now:,} sequences a step as before, now {split}"
    return ""


def _of_growing(settings: TrainSettings) -> list[str]:
    """Remarks on a batch size or length that still grows at the end, because the run has too few tokens."""
    most = settings.train_steps * settings.whole_batch * settings.seqlen
    growing = settings.growing
    names = (("batch size", growing.batch_tokens), ("sequence length", growing.sequence_tokens))
    return [
        f"{name}: grows over {tokens:,} tokens, and the run has {most:,} at most: it is never full"
        for name, tokens in names
        if tokens > most
    ]
