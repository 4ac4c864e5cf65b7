"""`ckptgrow inspect`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ckptgrow.addresses.address import typed
from ckptgrow.commands import _options as options
from ckptgrow.commands._paths import checkpoint_at, file_for
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._spelling import spelled_in
from ckptgrow.commands.family_tables.list_tables import show_tables
from ckptgrow.errors import RequestError, listing
from ckptgrow.storage.files.file_signs import CONFIGS

if TYPE_CHECKING:
    from ckptgrow.inspection import Inspection


def inspect(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CKPT", help="The checkpoint to look at.", show_default=False, callback=checkpoint_at),
    ] = None,
    config: options.ConfigOption = None,
    dialect: options.DialectOption = None,
    families: Annotated[bool, typer.Option("--families", help="List the families, and what each supports.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Read every byte: checksums, and the sha256 that growths record."),
    ] = False,
    recipe: Annotated[
        bool,
        typer.Option(
            "--recipe", help="Print the recipe of the last growth, for `ckptgrow grow`: the same bytes again."
        ),
    ] = False,
    config_out: Annotated[
        Path | None,
        typer.Option(
            help="Write the model's config.json here, as transformers reads it.",
            metavar="FILE",
            show_default=False,
            callback=file_for(CONFIGS),
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what a checkpoint holds: family, sizes, optimizer, schedule, step, precision, and what no table claims.

    Examples:
        ckptgrow inspect last.ckpt
        ckptgrow inspect model-dir --check                              # reads every byte
        ckptgrow inspect grown.ckpt --config-out config.json            # the grown model's, for transformers
        ckptgrow inspect --families                                     # what can be grown
    """
    screen = Screen(as_json)
    if families:
        show_tables(screen)
        return
    if checkpoint is None:
        raise RequestError("Missing argument 'CKPT'; name a checkpoint, or pass --families")
    if recipe:
        _print_recipe(checkpoint, screen)
        return
    from ckptgrow.inspection import inspect as inspect_checkpoint

    if config_out is not None:
        _write_config(checkpoint, config_out, config, dialect, screen)
        return
    found = inspect_checkpoint(checkpoint, config=config, dialect=dialect, check=check)
    found = replace(found, problems=spelled_in(found.problems), optimizer=spelled_in(found.optimizer))
    screen.table("", (str(checkpoint), ""), _rows(found))
    if found.sha256 is not None:
        screen.say(f"checked: sha256 of its tensors {found.sha256}")
    for entry in found.history:
        screen.say(f"grown: {_grown_by(entry)}")
    for problem in found.problems:
        screen.warn(problem)
    screen.result(found.to_json())


def _write_config(checkpoint: Path, target: Path, config: Path | None, dialect: str | None, screen: Screen) -> None:
    from ckptgrow.state.opening import open_state
    from ckptgrow.storage.files.json_files import write_config

    found = open_state(checkpoint, config=config, dialect=dialect).config
    target.parent.mkdir(parents=True, exist_ok=True)
    write_config(target, found)
    screen.say(f"config of {typed(checkpoint)}: {target}")
    screen.result({"out": str(target), "config": found})


def _grown_by(entry: Mapping[str, Any]) -> str:
    """A growth out of the history as the command that does it again, and who did it; a record that is not whole as it
    stands.
    """
    from ckptgrow.formats.growth_log import GrowthRecord
    from ckptgrow.recipes.command_words import COMMAND, words_of_command
    from ckptgrow.recipes.growth_recipe import recorded_recipe

    try:
        recipe = recorded_recipe(cast(GrowthRecord, entry))
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}
        words = words_of_command(str(options.pop("operator")), (), options)
        versions = f"{COMMAND} {entry['version']} and torch {entry['torch']}"
        return f"{shlex.join(words[1:])}, at step {entry['step'][0]:,}, by {versions}"
    except (KeyError, TypeError, ValueError):
        return ", ".join(f"{key} {value}" for key, value in entry.items())


def _print_recipe(checkpoint: Path, screen: Screen) -> None:
    from ckptgrow.formats.known_formats import read_checkpoint
    from ckptgrow.recipes.growth_recipe import OF_READING, recipe_text, recorded_recipe

    history = read_checkpoint(checkpoint).history
    if not history:
        raise RequestError(f"{checkpoint}: records no growth, expected one that ckptgrow grew")
    again = recorded_recipe(history[-1])
    screen.say(f"# growth {len(history)} of {len(history)}; not recorded: {', '.join(OF_READING)}")
    screen.say(recipe_text(again))
    screen.result({"recipe": again})


def _rows(found: Inspection) -> list[tuple[str, str]]:
    return [
        ("kind", found.kind),
        *([("trainer", found.trainer)] if found.trainer else []),
        ("family", found.family or "unknown"),
        ("sizes", ", ".join(f"{name} {size:,}" for name, size in found.sizes.items()) or "unknown"),
        ("parameters", f"{found.num_parameters:,} in {found.num_tensors} tensors"),
        ("dtypes", ", ".join(f"{dtype} ({count})" for dtype, count in found.dtypes.items())),
        ("optimizer", _optimizer(found)),
        ("schedule", _schedule(found)),
        ("step", "unknown" if found.global_step is None else f"{found.global_step:,}"),
        ("precision", found.precision or "as stored"),
        ("unclaimed", ", ".join(found.unclaimed) or "none"),
    ]


def _optimizer(found: Inspection) -> str:
    if found.optimizer is None:
        return "none"
    groups = found.optimizer["groups"]
    if not groups:
        return f"there, not read: {found.optimizer['unmatched']}"
    rates = ", ".join(f"{group['num_parameters']} at lr {group.get('lr', math.nan):g}" for group in groups)
    keys = ", ".join(found.optimizer["state_keys"])
    return (
        f"{found.optimizer['name']}: state ({keys}) for {found.optimizer['num_parameters_with_state']} parameters; "
        f"{len(groups)} group{'s' * (len(groups) != 1)} ({rates}){_doubts(found.optimizer)}"
    )


def _doubts(optimizer: Mapping[str, Any]) -> str:
    if optimizer["unmatched"]:
        return f"; not matched to the model's parameters: {optimizer['unmatched']}"
    lacking = optimizer["without_record"]
    return f"; no record of {listing(lacking)}: frozen, or lost?" if lacking else ""


def _schedule(found: Inspection) -> str:
    if found.schedule is None:
        return "none"
    rates = ", ".join(f"{rate:g}" for rate in found.schedule.get("_last_lr", []))
    return f"at {found.schedule.get('last_epoch')}, learning rates {rates or 'unknown'}"
