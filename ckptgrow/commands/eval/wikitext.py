"""`ckptgrow eval wikitext`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.choices import HubData
from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.commands.eval._eval_options import only_original
from ckptgrow.commands.eval._eval_session import Choices, Session, session
from ckptgrow.errors import RequestError


@takes("choices", Choices)
def wikitext(
    *,
    checkpoint: options.CheckpointArgument,
    data: options.DataOption = None,
    measure: options.MeasureOption = "lm-eval",
    dataset: Annotated[
        HubData | None,
        typer.Option(
            help="original: what to take from the hub [default: wikitext2].",
            show_default=False,
        ),
    ] = None,
    block_size: options.BlockSizeOption = None,
    choices: Choices,
    as_json: JsonOption = False,
) -> None:
    """WikiText: perplexity of whole pages.

    Measures perplexity per word and per byte, and bits per byte, by lm-eval's wikitext (WikiText-2). --data takes text
    in WikiText's layout, or JSON lines or parquet with `page` (whole pages) or `text` (lines). --measure original is
    the loss per token in blocks of --block-size; blocks of a memory-mapped .bin stand between a begin and an end token.

    Examples:
        ckptgrow eval wikitext model-dir --limit 10
    """
    given = {"--dataset": dataset, "--block-size": block_size}
    only_original(measure, {name for name, value in given.items() if value is not None})
    if dataset is not None and data is not None:
        raise RequestError("--dataset and --data exclude each other; choose one")
    with session(choices, as_json, checkpoint) as work:
        if measure == "lm-eval":
            work.show(work.run(checkpoint, work.load("wikitext", {} if data is None else {"wikitext": data})))
        else:
            _original_loss(work, checkpoint, data, dataset or "wikitext2", block_size)


def _original_loss(
    work: Session, checkpoint: Path, data: Path | None, dataset: HubData, block_size: int | None
) -> None:
    from ckptgrow.evaluate import blocks, tokens

    subject = work.open(checkpoint, *(() if data is None else (data,)))
    size = blocks.checked_block_size(block_size, subject)
    if data is not None and tokens.is_memory_mapped(data):
        end = tokens.end_token(subject)
        begin = subject.tokenizer.bos_token_id
        cut = blocks.framed_blocks(tokens.map_tokens(data), size, begin if isinstance(begin, int) else end, end)
    else:
        rows = tokens.hub_rows(dataset, subject) if data is None else tokens.file_rows(data, subject)
        cut = blocks.script_blocks(rows, size)
    task = dataset if data is None else data.name
    work.show(blocks.block_loss(task, subject, cut, work.settings, work.processes, work.progress))
