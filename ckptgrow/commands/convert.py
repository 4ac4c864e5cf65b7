"""`ckptgrow convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.choices import Target
from ckptgrow.commands import _options as options
from ckptgrow.commands._paths import checkpoint_at, output_at
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._values import byte_size
from ckptgrow.storage.files.targets import check_target


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="The checkpoint to convert.", show_default=False, callback=checkpoint_at),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Where to write.", show_default=False, callback=output_at)
    ],
    to: Annotated[Target, typer.Option(help="The other kind; 'dcp' are torch's distributed checkpoints.")],
    prefix: Annotated[
        str, typer.Option(help="What the model's names begin with inside a LightningModule (for lightning and dcp).")
    ] = "model.",
    config: options.ConfigOption = None,
    dialect: options.DialectOption = None,
    param_order: options.ParamOrderOption = None,
    drop: options.DropOption = None,
    max_shard_size: options.MaxShardSizeOption = "5GB",
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as another kind, with the same parameters, moments and steps to the bit.

    Parts for which the other kind has no place are left out and listed.
    """
    check_target(source, target, force=force)
    from ckptgrow.conversion import convert as convert_checkpoint

    screen = Screen(as_json)
    with screen.progress_later(f"converting {source.name}") as progress:
        done = convert_checkpoint(
            source,
            target,
            to,
            config=config,
            dialect=dialect,
            drop=tuple(drop or ()),
            param_order=param_order,
            prefix=prefix,
            max_shard_bytes=byte_size("--max-shard-size", max_shard_size),
            force=force,
            progress=progress,
        )
    screen.say(f"{source} ({done.kinds[0]}) → {done.out} ({done.kinds[1]}): {done.num_parameters:,} parameters.")
    if done.left_out:
        screen.say(f"left out, for {done.kinds[1]} has no place for it: {', '.join(done.left_out)}")
    screen.result(
        {
            "out": str(done.out),
            "kinds": list(done.kinds),
            "num_parameters": done.num_parameters,
            "left_out": list(done.left_out),
        }
    )
