"""`ckptgrow depth`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ckptgrow.choices import DoublingLayers, NewLayer, Place
from ckptgrow.commands import _options as options
from ckptgrow.commands._growth_shared import StateOptions, WritingOptions, perform
from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._paths import check_paths
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.errors import RequestError
from ckptgrow.ranges import MOST_LAYERS

# The original script's names, with the behaviour that the paper describes.
DOUBLING_LAYERS: Mapping[DoublingLayers, tuple[Place, NewLayer]] = {
    "alternate_id": ("alternate", "zero-norm"),
    "append_id": ("append", "zero-norm"),
    "alternate_copy": ("alternate", "copy"),
    "append_copy": ("append", "copy"),
}


@takes("state", StateOptions)
@takes("writing", WritingOptions)
def depth(
    *,
    source: options.InArgument,
    target: options.OutArgument,
    factor: Annotated[
        int | None,
        typer.Option(help="How many times as many layers [default: 2].", metavar="K"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="The old layer behind each new one, as 0,1,1,2 or 0-7,4-11; a second mention makes a new layer."
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(help="One new layer behind every N-th old one, made from it.", metavar="N"),
    ] = None,
    place: Annotated[
        Place | None,
        typer.Option(
            help="Where: new layers 'alternate' with the old, 'append' after them, or in the 'middle', made from the "
            "middle third [default: alternate]."
        ),
    ] = None,
    new: Annotated[
        NewLayer | None,
        typer.Option(
            help="New layers: 'zero-output' or 'zero-norm' (exact identities), or, changing the function, 'copy' "
            "(stacking), 'ode' (copies that share what they write) or 'random' [default: zero-output]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --new random.")] = 0,
    doubling_layers: Annotated[
        DoublingLayers | None,
        typer.Option(help="The staged-training script's names for place and kind."),
    ] = None,
    state: StateOptions,
    writing: WritingOptions,
    as_json: JsonOption = False,
) -> int:
    """Add layers to a checkpoint, its optimizer, schedule and config included.

    New layers are exact identities that train from the first step on, or copies, which change the function.

    Examples:
        ckptgrow depth small.ckpt deep.ckpt                             # a new layer behind every old one
        ckptgrow depth small.ckpt deep.ckpt --layers 0-7,4-11           # layers 4 to 7 twice
        ckptgrow depth small.ckpt deep.ckpt --every 3 --new zero-norm
    """
    check_paths(source, target, force=writing.force)
    if doubling_layers is not None:
        _alone(
            f"--doubling-layers {doubling_layers}",
            {"--place": place, "--new": new, "--layers": layers, "--every": every},
        )
        place, new = DOUBLING_LAYERS[doubling_layers]
    elif layers is not None or every is not None:
        _alone("--every" if layers is None else "--layers", {"--place": place})
    asked: dict[str, Any] = {
        "factor": factor,
        "layers": None if layers is None else _layer_list(layers),
        "every": every,
        "place": place or "alternate",
        "new": new or "zero-output",
        "seed": seed,
        **state.asked(),
    }
    from ckptgrow.recipes.growth_recipe import GrowthRecipe

    return perform(GrowthRecipe("depth", asked), source, target, writing, Screen(as_json))


def _alone(option: str, others: Mapping[str, object]) -> None:
    """Raises RequestError where an option is given together with one of `others`, which say the same thing."""
    given = [other for other, value in others.items() if value is not None]
    if given:
        raise RequestError(f"{option} and {given[0]} exclude each other: both say what layers come where; choose one")


def _layer_list(value: str) -> list[int]:
    """Reads layers and ranges of them, both ends included; raises RequestError for anything else."""
    found: list[int] = []
    for entry in value.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", entry)
        if match is None:
            raise RequestError(f"--layers {value}: expected old layers by commas, as 0,1,1,2 or 0-7,4-11")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > MOST_LAYERS:
            raise RequestError(f"--layers {value}: {entry.strip()} is not a range of layers, expected one as 4-11")
        found += range(first, last + 1)
    return found
