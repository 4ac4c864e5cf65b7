"""`ckptgrow convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptgrow.commands import options
from ckptgrow.commands.growing import byte_size, chosen
from ckptgrow.commands.screen import JsonOption, Screen

KINDS = ("lightning", "huggingface")


def convert(
    source: options.InArgument,
    target: options.OutArgument,
    to: Annotated[str, typer.Option(help="The kind to write: 'lightning' or 'huggingface'.", show_default=False)],
    config: options.ConfigOption = None,
    param_order: options.ParamOrderOption = None,
    drop: options.DropOption = None,
    max_shard_size: options.MaxShardSizeOption = "5GB",
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in another format, keeping all state that the target can hold, and say what it cannot."""
    from ckptgrow.conversion import convert as convert_checkpoint

    screen = Screen(as_json)
    with screen.progress_later(f"converting {source.name}") as progress:
        done = convert_checkpoint(
            source,
            target,
            to=chosen("--to", to, KINDS),
            config=config,
            param_order=param_order,
            drop=tuple(drop or ()),
            force=force,
            max_shard_bytes=byte_size("--max-shard-size", max_shard_size),
            progress=progress,
        )
    screen.say(f"{source} ({done.old_kind}) → {done.out} ({done.new_kind}): {done.num_tensors} tensors.")
    if done.lost:
        screen.say(f"note: {done.new_kind} cannot hold: {', '.join(done.lost)}")
    screen.result({"out": str(done.out), "kind": [done.old_kind, done.new_kind], "lost": list(done.lost)})
