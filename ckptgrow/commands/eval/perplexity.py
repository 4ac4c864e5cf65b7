"""`ckptgrow eval perplexity`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.commands._options import ConfigOption
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.commands.eval._eval_session import Choices, session


def perplexity(
    checkpoint: options.CheckpointArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Text, JSON lines, parquet, or a .bin of tokens.", show_default=False)
    ],
    block_size: options.BlockSizeOption = None,
    tokenizer: options.TokenizerOption = None,
    batch_size: options.BatchSizeOption = "auto",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    limit: options.LimitOption = None,
    samples: options.SamplesOption = None,
    config: ConfigOption = None,
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Loss and perplexity by token of a file.

    The loss is in nats a token; every token but the first is predicted once, from at most a block before it.
    JSON lines and parquet give the tokens that `ckptgrow data` makes of them; plain text is one document.
    """
    choices = Choices(
        tokenizer=tokenizer,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        limit=limit,
        samples=samples,
        config=config,
        force=force,
    )
    with session(choices, as_json, checkpoint) as work:
        from ckptgrow.data.documents import Remarks
        from ckptgrow.evaluate import blocks
        from ckptgrow.evaluate.tokens import is_memory_mapped, map_tokens, text_tokens

        subject = work.open(checkpoint, file)
        size = blocks.checked_block_size(block_size, subject)
        remarks = Remarks()
        tokens = map_tokens(file) if is_memory_mapped(file) else text_tokens(file, subject, remarks)
        cut = blocks.every_token(tokens, size)
        found = blocks.block_loss(file.name, subject, cut, work.settings, work.processes, work.progress)
        work.show(None if found is None else replace(found, notes=remarks.notes()))
