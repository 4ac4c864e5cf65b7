"""`ckptgrow data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.choices import Documents, SpecialTokens
from ckptgrow.commands._paths import check_place, output_at
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.errors import RequestError


def data(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="INPUT... OUT", help="Files, directories or globs, then the directory to write."),
    ],
    tokenizer: Annotated[
        str | None, typer.Option(help="A Hugging Face tokenizer's name or directory, or 'bytes'.", show_default=False)
    ] = None,
    train_tokenizer: Annotated[
        int | None, typer.Option(help="Train a byte-level BPE of so many tokens on the input instead.")
    ] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of documents for validation, by a hash of each.")] = 0.05,
    field: Annotated[
        str, typer.Option(help="The field of JSON lines, parquet or TFRecord that holds the text.")
    ] = "text",
    documents: Annotated[
        Documents, typer.Option(help="What a document of a text file is: one of its lines, or all of it.")
    ] = "lines",
    special_tokens: Annotated[
        SpecialTokens,
        typer.Option(help="What a special token spelled in the text, as <|endoftext|>, is: 'text', or 'parse' it."),
    ] = "text",
    workers: Annotated[int, typer.Option(help="Processes that tokenize.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace prepared data in OUT.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn text, JSON lines (.gz and .zst too), parquet or TFRecord files into train.bin, val.bin and meta.json.

    Examples:
        ckptgrow data books.jsonl notes/ prepared --tokenizer gpt2
        ckptgrow data corpus/ prepared --train-tokenizer 8192 --documents files
    """
    if len(paths) < 2:
        raise RequestError("data: expected INPUT... OUT, at least one input and the directory to write")
    if tokenizer is None and train_tokenizer is None:
        raise RequestError(
            "--tokenizer: is missing, expected a tokenizer's name or directory, or bytes (a token a byte); "
            "--train-tokenizer N trains one instead"
        )
    if tokenizer is not None and train_tokenizer is not None:
        raise RequestError("--tokenizer and --train-tokenizer exclude each other; choose one")
    out = output_at(Path(paths[-1]))
    check_place(out, "prepared data")
    from ckptgrow.data.preparation import prepare
    from ckptgrow.data.tokenizers import BYTES

    screen = Screen(as_json)
    before = None if train_tokenizer is None else "training the tokenizer"
    with screen.progress_later("tokenizing", before=before) as progress:
        done = prepare(
            paths[:-1],
            out,
            tokenizer=tokenizer or BYTES,
            train_tokenizer=train_tokenizer,
            val_fraction=val_fraction,
            field=field,
            documents=documents,
            special_tokens=special_tokens,
            workers=workers,
            force=force,
            progress=progress,
        )
    screen.say(
        f"{done.out}: {done.num_tokens['train']:,} tokens of {done.num_documents['train']:,} documents to train on, "
        f"{done.num_tokens['val']:,} of {done.num_documents['val']:,} to validate; vocabulary {done.vocab_size:,}, "
        f"{done.dtype}."
    )
    if val_fraction > 0 and not done.num_tokens["val"]:
        screen.warn("too few documents: none is kept to validate with; a larger --val-fraction, or --documents lines")
    for note in done.notes:
        screen.say(f"note: {note}")
    screen.result(
        {
            "out": str(done.out),
            "tokenizer": done.tokenizer,
            "vocab_size": done.vocab_size,
            "dtype": done.dtype,
            "num_documents": done.num_documents,
            "num_tokens": done.num_tokens,
            "sha256": done.sha256,
            "notes": list(done.notes),
        }
    )
