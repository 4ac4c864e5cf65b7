"""`ckptgrow generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.commands._options import ConfigOption
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.errors import RequestError


def generate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Any checkpoint.", show_default=False)],
    prompt: Annotated[str, typer.Option(help="The text to go on from.", show_default=False)],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to say.")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="Of the draw; 0 takes the likeliest token.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A tokenizer's name, directory, or 'bytes' [default: the checkpoint's].", show_default=False),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Text from a checkpoint, as its model goes on from a prompt."""
    if not checkpoint.exists():
        raise RequestError(f"{checkpoint}: no such file or directory, expected a checkpoint")
    import torch

    from ckptgrow.evaluate.sampling import sampled_text
    from ckptgrow.evaluate.subject import open_subject

    subject = open_subject(checkpoint, tokenizer=tokenizer, dtype="float32", device=torch.device("cpu"), config=config)
    text = sampled_text(subject, prompt, tokens, temperature, seed)
    screen = Screen(as_json)
    screen.say(prompt + text)
    screen.result({"checkpoint": str(checkpoint), "prompt": prompt, "text": text, "seed": seed})
