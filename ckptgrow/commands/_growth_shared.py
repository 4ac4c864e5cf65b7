"""What the commands that grow have in common: they perform a recipe, with a progress bar, a sentence and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ckptgrow.addresses.address import typed
from ckptgrow.choices import Part, StepWord, words_of
from ckptgrow.commands import _options as options
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
from ckptgrow.commands._timing import timing_notes
from ckptgrow.commands._values import byte_size, chosen_by_commas
from ckptgrow.ranges import read

if TYPE_CHECKING:
    from ckptgrow.growth.request import GrowthResult, StepChoice
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

VERBS = {
    "width": "widening",
    "depth": "deepening",
    "vocab": "growing the vocabulary of",
    "positions": "lengthening",
    "experts": "upcycling",
}
CONFIG_WITHIN = (
    "the grown config lies in OUT itself, as ['ckptgrow']['config']; commands find it there and want no --config"
)
TRAPPED = (
    "the grown model is trapped: its copies get equal gradients and stay equal for ever, so it computes nothing the "
    "small one could not. Train with dropout, or grow with --separate split (changes no output)"
)


@dataclass(frozen=True, kw_only=True)
class StateOptions:
    """The options that say how the training state is carried over."""

    lr_rule: options.LrRuleOption = "keep"
    step: options.StepOption = "keep"
    schedule: options.ScheduleOption = ""
    rewarm: options.RewarmOption = 0
    reset: options.ResetOption = ""
    moments: options.MomentsOption = "algebra"
    config: options.ConfigOption = None
    dialect: options.DialectOption = None
    param_order: options.ParamOrderOption = None
    drop: options.DropOption = None
    allow_nonfinite: options.AllowNonfiniteOption = False

    def asked(self) -> dict[str, Any]:
        """What a recipe says of them; raises RequestError where a value is wrong."""
        return {
            **vars(self),
            "step": _step_choice(self.step),
            "reset": _reset_parts(self.reset),
            "drop": tuple(self.drop or ()),
        }


@dataclass(frozen=True, kw_only=True)
class WritingOptions:
    """The options that say how a growth is written, and whether it is."""

    max_shard_size: options.MaxShardSizeOption = "5GB"
    force: options.ForceOption = False
    dry_run: options.DryRunOption = False


def _step_choice(value: str) -> StepChoice:
    """The value of --step: `keep`, `auto`, or a number of steps; raises RequestError for others."""
    if value in words_of(StepWord):
        return cast("StepWord", value)
    return int(read("step", value, *words_of(StepWord)))


def _reset_parts(value: str) -> tuple[Part, ...]:
    """The parts of --reset, which commas separate; raises RequestError for unknown ones."""
    return cast("tuple[Part, ...]", chosen_by_commas("--reset", value, words_of(Part)))


def perform(recipe: GrowthRecipe, source: Path, target: Path, writing: WritingOptions, screen: Screen) -> int:
    """Grows a checkpoint by a recipe and tells what that did, or with `dry_run` what it would do; returns the exit
    code.
    """
    recipe.check()
    max_shard_bytes = byte_size("--max-shard-size", writing.max_shard_size)
    if writing.dry_run:
        from ckptgrow.formats.known_formats import check_output

        check_output(source, target, force=writing.force)
        return _rehearsed(recipe, source, target, screen)
    with screen.progress_later(f"{VERBS[recipe.operator]} {source.name}") as progress:
        done = recipe.grow(source, target, max_shard_bytes=max_shard_bytes, force=writing.force, progress=progress)
        done = _with_notes(done, recipe, source)
    screen.result(_told(done, source, target, screen))
    return 0


def _rehearsed(recipe: GrowthRecipe, source: Path, target: Path, screen: Screen) -> int:
    """Tells what a growth would do, without reading or writing a tensor."""
    from ckptgrow.formats.known_formats import read_checkpoint
    from ckptgrow.recipes.growth_recipe import recipe_text, recorded_recipe

    old = read_checkpoint(source)
    done = _with_notes(recipe.grow(old, None), recipe, source)
    assert done.grown is not None
    again = recorded_recipe(done.record)
    screen.say(NOTHING_WRITTEN)
    values = _told(done, source, target, screen)
    room = room_for(done.grown, target)
    code = tell_room(room, target, screen)
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
    """The result with its notes in the command line's words, with where its config lies, what it does to rounding, and
    whether it is early.
    """
    config, dialect = (recipe.options.get(name) for name in ("config", "dialect"))
    more = conditioning_notes(done, source, config, dialect) if recipe.operator == "width" else []
    more = [*more, *timing_notes(source, recipe.operator, done.step[0])]
    if config is not None and source.is_file():
        more.append(CONFIG_WITHIN)
    return replace(done, notes=tuple(map(spelled, (*done.notes, *more))))


def _told(done: GrowthResult, source: Path, target: Path, screen: Screen) -> Mapping[str, object]:
    """Says what a growth did; returns it as values."""
    screen.say(_sentence(done, source, target))
    for note in done.notes:
        screen.say(f"note: {note}")
    if done.trapped:
        screen.warn(TRAPPED)
    return {
        "out": typed(target),
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
        f"{name} {done.old.get(name, 'none')} → {size}" for name, size in done.new.items() if done.old.get(name) != size
    )
    if "to" in done.record:
        changes = f"{done.record.get('dense')} → {done.record['to']}, {changes}"
    old, new = done.num_parameters
    step = "" if done.step[0] == done.step[1] else f", step {done.step[0]} → {done.step[1]}"
    changes = changes or "the same sizes"
    return f"{typed(source)} → {typed(target)}: {changes}; {old:,} → {new:,} parameters; lr rule {done.lr_rule}{step}."
