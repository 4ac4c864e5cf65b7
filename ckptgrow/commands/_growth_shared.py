"""What the commands that grow have in common: they perform a recipe, with a progress bar, a sentence and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ckptgrow.choices import Part, StepWord, words_of
from ckptgrow.commands._conditioning import conditioning_notes
from ckptgrow.commands._dry_run import (
    NOTHING_WRITTEN,
    carried_in,
    groups_of,
    room_for,
    tell_carried,
    tell_rates,
    tell_room,
)
from ckptgrow.commands._screen import Screen
from ckptgrow.commands._spelling import spelled
from ckptgrow.commands._values import byte_size, chosen_by_commas
from ckptgrow.errors import RequestError

if TYPE_CHECKING:
    from ckptgrow.growth.request import GrowthResult, StepChoice
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

VERBS = {"width": "widening", "depth": "deepening"}
TRAPPED = (
    "the grown model is trapped: its copies get equal gradients and stay equal for ever, so it computes nothing the "
    "small one could not. Train with dropout, or grow with --separate split (changes no output)"
)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a growth is written and how, and whether it is."""

    target: Path
    force: bool
    max_shard_size: str
    dry_run: bool


def step_choice(value: str) -> StepChoice:
    """The value of --step: `keep`, `auto`, or a number of steps; raises RequestError for others."""
    if value in words_of(StepWord):
        return cast("StepWord", value)
    try:
        step = int(value)
    except ValueError as error:
        raise RequestError(f"--step {value}: expected keep, auto or a whole number") from error
    if step < 0:
        raise RequestError(f"--step {value}: expected a step from 0 on")
    return step


def reset_parts(value: str) -> tuple[Part, ...]:
    """The parts of --reset, which commas separate; raises RequestError for unknown ones."""
    return cast("tuple[Part, ...]", chosen_by_commas("--reset", value, words_of(Part)))


def perform(recipe: GrowthRecipe, source: Path, output: Output, screen: Screen) -> int:
    """Grows a checkpoint by a recipe and tells what that did, or with `dry_run` what it would do; returns the exit
    code.
    """
    max_shard_bytes = byte_size("--max-shard-size", output.max_shard_size)
    if output.dry_run:
        return _rehearsed(recipe, source, output, screen)
    with screen.progress_later(f"{VERBS[recipe.operator]} {source.name}") as progress:
        done = recipe.grow(
            source, output.target, max_shard_bytes=max_shard_bytes, force=output.force, progress=progress
        )
        done = _with_notes(done, recipe, source)
    screen.result(_told(done, source, output.target, screen))
    return 0


def _rehearsed(recipe: GrowthRecipe, source: Path, output: Output, screen: Screen) -> int:
    """Tells what a growth would do, without reading or writing a tensor."""
    from ckptgrow.formats.known_formats import check_output, read_checkpoint
    from ckptgrow.recipes.growth_recipe import recipe_text, recorded_recipe

    check_output(source, output.target, force=output.force)
    old = read_checkpoint(source)
    done = _with_notes(recipe.grow(old, None), recipe, source)
    assert done.grown is not None
    again = recorded_recipe(done.record)
    screen.say(NOTHING_WRITTEN)
    values = _told(done, source, output.target, screen)
    room = room_for(done.grown, output.target)
    code = tell_room(room, output.target, screen)
    tell_rates(old, done.grown, screen)
    tell_carried(done.grown, screen)
    screen.say(f"recipe:\n{recipe_text(again)}")
    screen.result(
        {
            **values,
            "dry_run": True,
            "bytes": room.needed,
            "free_bytes": room.free,
            "groups": {"old": groups_of(old), "new": groups_of(done.grown)},
            "carried": carried_in(done.grown),
            "recipe": again,
        }
    )
    return code


def _with_notes(done: GrowthResult, recipe: GrowthRecipe, source: Path) -> GrowthResult:
    """The result with its notes in the command line's words, and with what it does to rounding."""
    more = conditioning_notes(done, source, recipe.options.get("config")) if recipe.operator == "width" else []
    return replace(done, notes=tuple(map(spelled, (*done.notes, *more))))


def _told(done: GrowthResult, source: Path, target: Path, screen: Screen) -> Mapping[str, object]:
    """Says what a growth did; returns it as values."""
    screen.say(_sentence(done, source, target))
    for note in done.notes:
        screen.say(f"note: {note}")
    if done.trapped:
        screen.warn(TRAPPED)
    return {
        "out": str(target),
        "old": done.old,
        "new": done.new,
        "num_parameters": list(done.num_parameters),
        "trapped": done.trapped,
        "lr_rule": done.lr_rule,
        "step": list(done.step),
        "notes": list(done.notes),
    }


def _sentence(done: GrowthResult, source: Path, target: Path) -> str:
    changes = ", ".join(
        f"{name} {done.old[name]} → {size}" for name, size in done.new.items() if done.old.get(name) != size
    )
    old, new = done.num_parameters
    step = "" if done.step[0] == done.step[1] else f", step {done.step[0]} → {done.step[1]}"
    return f"{source} → {target}: {changes}; {old:,} → {new:,} parameters; lr rule {done.lr_rule}{step}."
