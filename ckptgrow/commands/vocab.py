"""`ckptgrow vocab`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ckptgrow.choices import RowInit
from ckptgrow.commands import _options as options
from ckptgrow.commands._growth_shared import StateOptions, WritingOptions, perform
from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._paths import check_paths
from ckptgrow.commands._screen import JsonOption, Screen


@takes("state", StateOptions)
@takes("writing", WritingOptions)
def vocab(
    *,
    source: options.InArgument,
    target: options.OutArgument,
    size: Annotated[
        int | None,
        typer.Option(help="Rows of the vocabulary: more, or fewer where only padding goes.", show_default=False),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="The new tokenizer: a directory, a name on the hub or in its cache, or 'bytes'. Tokens that spell the "
            "same keep their rows.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    pad_to: Annotated[int, typer.Option(help="Round the number of rows up to a multiple of this.")] = 1,
    init: Annotated[
        RowInit | None,
        typer.Option(
            help="New rows: the 'mean' of all old ones, by which the loss rises by log(1 + n/V) at most; with "
            "--tokenizer also 'pieces', the mean of the old tokens that spell it (an untied head's rows stay the mean "
            "of all); or a 'copy' of the first of these, else of old rows in turn [default: pieces with --tokenizer, "
            "else mean]."
        ),
    ] = None,
    old_tokenizer: Annotated[
        str | None,
        typer.Option(help="IN's tokenizer, where none lies beside it.", metavar="NAME", show_default=False),
    ] = None,
    state: StateOptions,
    writing: WritingOptions,
    as_json: JsonOption = False,
) -> int:
    """Give a checkpoint more tokens or another tokenizer: rows, moments, config and tokenizer files.

    Logits of old tokens stay as they are, to the bit; new rows begin with the second moments of rare tokens.

    Examples:
        ckptgrow vocab small.ckpt more.ckpt --size 50304                # new rows as the mean of the old ones
        ckptgrow vocab model-dir out-dir --tokenizer new-dir --pad-to 64
        ckptgrow vocab model-dir out-dir --size 50257                   # padding rows go
    """
    check_paths(source, target, force=writing.force)
    asked: dict[str, Any] = {
        "size": size,
        "tokenizer": tokenizer,
        "pad_to": pad_to,
        "init": init,
        "old_tokenizer": old_tokenizer,
        **state.asked(),
    }
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

    return perform(GrowthRecipe("vocab", asked), source, target, writing, Screen(as_json))
