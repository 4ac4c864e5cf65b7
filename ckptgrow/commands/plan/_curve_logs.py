"""What the commands that read learning curves have in common: options of a log, and sentences on what was left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.choices import SpikeRule
from ckptgrow.commands._paths import file_for
from ckptgrow.commands._screen import Screen
from ckptgrow.storage.files.file_signs import PICTURES

if TYPE_CHECKING:
    from ckptgrow.planning.learning_curves import Curve

PlotOption = Annotated[
    Path | None,
    typer.Option(help="Write a picture here (.png, .pdf or .svg).", show_default=False, callback=file_for(PICTURES)),
]
LossOption = Annotated[str | None, typer.Option(help="The loss's column or tag.", show_default=False)]
StepColumnOption = Annotated[
    str | None, typer.Option("--step-column", help="The column of optimizer steps in a CSV.", show_default=False)
]
SpikesOption = Annotated[
    SpikeRule,
    typer.Option(
        help="Which evaluations are left out: robust, those beyond 5 deviations (and 1 %) of a running median; paper, "
        "those more than 1 % above the last one kept, for smooth curves; none."
    ),
]


def say_left_out(curves: Iterable[Curve], screen: Screen) -> None:
    """Shows a sentence for each curve that lacks rows of its log, and a warning where noise was taken for spikes."""
    for curve in curves:
        if curve.cleaning.sentence:
            screen.say(f"{curve.where}: {curve.cleaning.sentence}")
        if curve.cleaning.is_doubtful:
            screen.warn(
                f"{curve.where}: {curve.cleaning.spikes:,} of {curve.cleaning.rows:,} evaluations are spikes by this "
                "rule, which is noise rather, and what is left is biased; pass --spikes robust or none, or evaluate "
                "on more tokens"
            )


def left_out(curve: Curve) -> dict[str, object]:
    """What was left out of a curve's log, for JSON."""
    found = curve.cleaning
    return {
        "log": curve.where,
        "rule": found.rule,
        "evaluations": found.rows,
        "spikes": found.spikes,
        "replaced": found.replaced,
        "cut": found.cut,
        "at_step_zero": found.at_zero,
    }
