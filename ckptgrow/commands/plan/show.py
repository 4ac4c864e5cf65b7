"""`ckptgrow plan show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._options import DialectOption
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.plan._curve_logs import PlotOption
from ckptgrow.errors import RequestError, needs

if TYPE_CHECKING:
    from ckptgrow.report.lineages import ShownRun

COLUMNS = ("run", "parameters", "grown from", "FLOPs in all", "last validation", "lowest validation")
STYLES = ("blue", "green", "magenta", "cyan", "yellow", "bright_black")


def _there(runs: list[Path]) -> list[Path]:
    for one in runs:
        if not one.exists():
            raise RequestError(f"{one}: no such file or directory, expected a run or a log")
    return runs


def show(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Directories of `ckptgrow train` or `ckptgrow run`, or logs of other trainers.",
            callback=_there,
        ),
    ],
    params: Annotated[
        list[str] | None,
        typer.Option(
            help="Parameters without embeddings of each other trainer's model, in the order of their logs.",
            metavar="N...",
            show_default=False,
        ),
    ] = None,
    tokens_per_step: Annotated[
        float | None, typer.Option(help="Tokens an optimizer step, of other trainers' logs.", show_default=False)
    ] = None,
    dialect: DialectOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the loss of any runs against the compute of all that led to them, in one picture and a table.

    A run of a grown model begins where the run that it was grown from has ended, if that is named too.

    Examples:
        ckptgrow plan show small-run grown-run scratch-run --plot runs.png
    """
    found = _shown(runs, params or (), tokens_per_step, dialect)
    screen = Screen(as_json)
    screen.table("", COLUMNS, [_row(one) for one in found])
    screen.picture(lambda width: _picture(found, width))
    _tell(found, plot, screen)
    screen.result({"runs": [_as_tree(one) for one in found]})


def _shown(
    runs: list[Path], params: Sequence[str], tokens_per_step: float | None, dialect: str | None
) -> list[ShownRun]:
    from ckptgrow.planning.model_size import model_size

    with needs("plan show", "train,plan"):
        from ckptgrow.report.lineages import shown_runs
    return shown_runs(runs, [model_size(one, dialect) for one in params], tokens_per_step)


def _tell(runs: list[ShownRun], plot: Path | None, screen: Screen) -> None:
    """Says which runs cannot be compared, and draws all where asked."""
    from ckptgrow.report.run_record import of_other_data

    if other_data := of_other_data([one.curve for one in runs]):
        screen.warn(other_data)
    if plot is not None:
        from ckptgrow.report.lineage_figure import draw_runs

        draw_runs(plot, runs)
        screen.say(f"plot: {plot}")


def _row(run: ShownRun) -> tuple[object, ...]:
    curve = run.curve
    losses = (f"{loss:.4f}" for loss in (curve.val_losses[-1], curve.val_losses.min()))
    return curve.name, curve.params, run.grown_from, f"{curve.spent:.3g}", *losses


def _picture(runs: list[ShownRun], width: int) -> list[list[tuple[str, str]]]:
    from ckptgrow.planning.terminal import Line, picture

    styles = [STYLES[number % len(STYLES)] for number in range(len(runs))]
    lines = [Line(one.curve.flops, one.curve.val_losses, style) for one, style in zip(runs, styles, strict=True)]
    legend = [(f"{one.curve.name}  ", style) for one, style in zip(runs, styles, strict=True)]
    return [*picture(lines, [], width=width), legend]


def _as_tree(run: ShownRun) -> dict[str, object]:
    curve = run.curve
    return {
        "run": curve.name,
        "params": curve.params,
        "grown_from": run.grown_from,
        "flops": curve.spent,
        "last": float(curve.val_losses[-1]),
        "lowest": float(curve.val_losses.min()),
        "curve": [[one, other] for one, other in zip(curve.flops.tolist(), curve.val_losses.tolist(), strict=True)],
    }
