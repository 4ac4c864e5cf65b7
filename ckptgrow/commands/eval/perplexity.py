"""`ckptgrow eval perplexity`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._paths import file_of
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.commands.eval._eval_session import Choices, session


@takes("choices", Choices)
def perplexity(
    *,
    checkpoint: options.CheckpointArgument,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Text, JSON lines, parquet, or a .bin of tokens; by default the run's own val.bin.",
            show_default=False,
            callback=file_of("text, JSON lines, parquet or a .bin of tokens"),
        ),
    ] = None,
    block_size: options.BlockSizeOption = None,
    choices: Choices,
    as_json: JsonOption = False,
) -> None:
    """Loss and perplexity of a file's tokens.

    The loss is in nats per token; every token but the first is predicted once, from at most one block before it.
    JSON lines and parquet give the tokens that `ckptgrow data` makes of them; plain text is one document.

    Examples:
        ckptgrow eval perplexity run                                    # the run's own validation tokens
        ckptgrow eval perplexity last.ckpt text.txt --tokenizer gpt2
    """
    with session(choices, as_json, checkpoint) as work:
        from ckptgrow.evaluate.blocks import file_loss
        from ckptgrow.evaluate.subject import validation_of

        read = validation_of(checkpoint) if file is None else file
        subject = work.open(checkpoint, read)
        settings = replace(work.settings, block_size=block_size)
        work.show(file_loss(read.name, read, subject, settings, work.processes, work.progress))
