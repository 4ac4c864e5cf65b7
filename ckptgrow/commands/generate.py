"""`ckptgrow generate`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ckptgrow.commands._options import AveragedOption, ConfigOption, DialectOption
from ckptgrow.commands._pulse import PULSE
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.eval import _eval_options as options


def generate(
    checkpoint: options.CheckpointArgument,
    prompt: Annotated[
        str, typer.Option(help="The text to go on from; '-' reads it from standard input.", show_default=False)
    ],
    num_tokens: Annotated[int, typer.Option(help="Tokens to write, at most.")] = 100,
    temperature: Annotated[
        float, typer.Option(help="Of the next token's distribution; 0 takes the most likely one.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from so many likely tokens; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likely tokens of that probability.")] = 1.0,
    num_texts: Annotated[int, typer.Option(help="Texts to write.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the drawing.")] = 0,
    tokenizer: options.TokenizerOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    config: ConfigOption = None,
    dialect: DialectOption = None,
    averaged: AveragedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write text with any checkpoint: what its model makes of a prompt.

    Examples:
        ckptgrow generate run --prompt 'Once upon a time'
        ckptgrow generate model-dir --prompt - --temperature 0 < prompt.txt
    """
    with PULSE.held():
        text = sys.stdin.read() if prompt == "-" else prompt
    from ckptgrow.evaluate.generation import Sampling
    from ckptgrow.evaluate.generation import generate as generate_texts
    from ckptgrow.evaluate.processes import launched
    from ckptgrow.evaluate.subject import Taken, open_subject

    sampling = Sampling(
        num_tokens=num_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, num_texts=num_texts
    )
    screen = Screen(as_json)
    with screen.stages() as stage, launched(device) as processes:
        stage(f"loading {checkpoint.name}")
        subject = open_subject(
            checkpoint,
            tokenizer=tokenizer,
            dtype=dtype,
            device=processes.device,
            taken=Taken(config, averaged, dialect),
        )
        stage("writing")
        texts = generate_texts(subject, text, sampling)
    for one in texts:
        screen.say(f"{text}{one}")
    screen.result({"checkpoint": str(checkpoint), "tokenizer": subject.tokenizer_name, "prompt": text, "texts": texts})
