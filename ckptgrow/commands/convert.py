"""`ckptgrow convert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckptgrow.addresses.address import typed
from ckptgrow.choices import Omitted, Target, words_of
from ckptgrow.commands import _options as options
from ckptgrow.commands._dry_run import NOTHING_WRITTEN, carried_in, room_for, tell_carried, tell_room
from ckptgrow.commands._paths import checkpoint_at, grown_at
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._values import byte_size, chosen_by_commas
from ckptgrow.conversion.target_kinds import kind_of
from ckptgrow.errors import RequestError
from ckptgrow.formats.target_names import check_name
from ckptgrow.storage.files.targets import check_target

if TYPE_CHECKING:
    from ckptgrow.conversion.converting import Converted


def convert(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="IN", help="The checkpoint to convert.", show_default=False, callback=checkpoint_at),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT", help="Where to write.", show_default=False, callback=lambda path: path and grown_at(path)
        ),
    ] = None,
    to: Annotated[
        Target | None,
        typer.Option(help="The other kind; 'dcp' are torch's distributed checkpoints.", show_default=False),
    ] = None,
    lists: Annotated[bool, typer.Option("--list", help="List the kinds, and what goes into each.")] = False,
    prefix: Annotated[
        str, typer.Option(help="What the model's names begin with inside a LightningModule (for lightning and dcp).")
    ] = "model.",
    config: options.ConfigOption = None,
    dialect: options.DialectOption = None,
    param_order: options.ParamOrderOption = None,
    drop: options.DropOption = None,
    reset: Annotated[
        str, typer.Option(help="Parts to leave out, by commas: 'optimizer', 'schedule'.", show_default=False)
    ] = "",
    averaged: options.AveragedOption = False,
    max_shard_size: options.MaxShardSizeOption = "5GB",
    force: options.ForceOption = False,
    dry_run: options.DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Write a checkpoint as another kind, with the same parameters, moments and steps to the bit.

    Parts for which the other kind has no place are left out and listed.

    Examples:
        ckptgrow convert last.ckpt model-dir --to huggingface
        ckptgrow convert checkpoint-1000 small.ckpt --to lightning
        ckptgrow convert model-dir ckpt.pt --to nanogpt
        ckptgrow convert --list                                         # what goes where
    """
    if lists:
        _list_kinds(Screen(as_json))
        return 0
    if source is None or target is None or to is None:
        raise RequestError("Missing IN, OUT or --to KIND; name them, or pass --list")
    check_target(source, target, force=force)
    check_name(target, kind_of(to))
    asked: dict[str, Any] = {
        "config": config,
        "dialect": dialect,
        "drop": tuple(drop or ()),
        "reset": chosen_by_commas("--reset", reset, words_of(Omitted)),
        "param_order": param_order,
        "is_averaged": averaged,
        "prefix": prefix,
        "max_shard_bytes": byte_size("--max-shard-size", max_shard_size),
    }
    from ckptgrow.conversion.converting import convert as convert_checkpoint

    screen = Screen(as_json)
    if dry_run:
        return _rehearsed((source, target), to, asked, force, screen)
    with screen.progress_later(f"converting {source.name}") as progress:
        done = convert_checkpoint(source, target, to, **asked, force=force, progress=progress)
    screen.result(_told(done, source, target, screen))
    return 0


def _rehearsed(pair: tuple[Path, Path], to: Target, asked: Mapping[str, Any], force: bool, screen: Screen) -> int:
    from ckptgrow.conversion.converting import convert as convert_checkpoint
    from ckptgrow.formats.known_formats import check_output

    source, target = pair
    check_output(source, target, force=force, kind=kind_of(to))
    done = convert_checkpoint(source, None, to, **asked)
    assert done.checkpoint is not None
    screen.say(NOTHING_WRITTEN)
    values = _told(done, source, target, screen)
    room = room_for(done.checkpoint, target)
    code = tell_room(room, target, screen)
    tell_carried(done.checkpoint, screen)
    carried = {"carried": carried_in(done.checkpoint)}
    screen.result({**values, "dry_run": True, "bytes": room.needed, "free_bytes": room.free, **carried})
    return code


def _told(done: Converted, source: Path, target: Path, screen: Screen) -> Mapping[str, object]:
    """Says what a conversion did; returns it as values."""
    screen.say(
        f"{typed(source)} ({done.kinds[0]}) → {typed(target)} ({done.kinds[1]}): {done.num_parameters:,} parameters."
    )
    if done.tokenizer is not None:
        screen.say(f"beside it the tokenizer of its run, {done.tokenizer}")
    if done.left_out:
        screen.say(f"left out, for {done.kinds[1]} has no place for it: {', '.join(done.left_out)}")
    for note in done.notes:
        screen.note(note)
    return {
        "out": typed(target),
        "kinds": list(done.kinds),
        "num_parameters": done.num_parameters,
        "tokenizer": done.tokenizer,
        "left_out": list(done.left_out),
        "notes": list(done.notes),
    }


def _list_kinds(screen: Screen) -> None:
    from ckptgrow.conversion.target_kinds import kinds_of_targets

    table = kinds_of_targets()
    for name, one in table.items():
        screen.say(f"{name:12} {one.form}: {', '.join(one.families) if one.families else 'every family'}")
    screen.say("Every checkpoint that ckptgrow reads can be converted, whatever wrote it.")
    screen.result({"targets": {name: asdict(one) for name, one in table.items()}})
