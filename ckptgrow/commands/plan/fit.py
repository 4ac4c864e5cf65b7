"""`ckptgrow plan fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.choices import LawForm, Resampling
from ckptgrow.commands._options import DialectOption
from ckptgrow.commands._paths import file_for
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.plan._curve_logs import (
    LossOption,
    PlotOption,
    SpikesOption,
    StepColumnOption,
    left_out,
    say_left_out,
)
from ckptgrow.commands.plan._params import ParamsOption, sizes_of
from ckptgrow.storage.files.file_signs import LAWS

if TYPE_CHECKING:
    from ckptgrow.planning.fitting import Fit
    from ckptgrow.planning.law_errors import LawErrors


def fit(
    curves: Annotated[list[Path], typer.Argument(metavar="CURVE...", help="Logs of runs of several sizes.")],
    params: ParamsOption,
    tokens_per_step: Annotated[float, typer.Option(help="Tokens an optimizer step.", show_default=False)],
    form: Annotated[
        LawForm,
        typer.Option(help="kaplan: (N, steps), with its critical batch size; hoffmann: (N, tokens), with a floor."),
    ] = "kaplan",
    from_step: Annotated[int, typer.Option(help="Leave out evaluations before it, as those of warm-up.")] = 0,
    errors: Annotated[
        Resampling,
        typer.Option(
            help="What the bootstrap of errors draws again: blocks of neighbouring evaluations of each curve, or whole "
            "curves, of which it takes several more than sizes."
        ),
    ] = "blocks",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    dialect: DialectOption = None,
    loss: LossOption = None,
    step_column: StepColumnOption = None,
    spikes: SpikesOption = "robust",
    plot: PlotOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the law here (.yaml or .json).", show_default=False, callback=file_for(LAWS)),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law's constants to learning curves of your own, for `plan law --law FILE`.

    Uses robust least squares on log L (Huber's loss). Errors are those of a bootstrap of blocks, because neighbouring
    evaluations of a run are alike; beside them stand the smaller ones that they would have if they were independent.

    Examples:
        ckptgrow plan fit small-run large-run --params 5e6 2e7 --tokens-per-step 16384 --out law.yaml --plot law.png
    """
    from ckptgrow.planning.fitting import fit as fit_law
    from ckptgrow.planning.fitting import gather
    from ckptgrow.planning.law_errors import law_errors
    from ckptgrow.planning.law_files import draws_of, write_law
    from ckptgrow.planning.learning_curves import curve
    from ckptgrow.planning.logs import Names

    sizes = sizes_of(params, len(curves), "curves", dialect)
    found = [
        curve(path, size, tokens_per_step, Names(loss, step_column), spikes).after(from_step)
        for path, size in zip(curves, sizes, strict=True)
    ]
    name = "fitted" if out is None else out.stem
    points = gather([(size, one.steps, one.losses) for size, one in zip(sizes, found, strict=True)], tokens_per_step)
    result = fit_law(points, form, name)
    spread = law_errors(result, errors, seed)
    screen = Screen(as_json)
    _say(result, spread, screen)
    say_left_out(found, screen)
    more = _as_tree(result, spread)
    if plot is not None:
        from ckptgrow.planning.fit_figure import draw_fit

        draw_fit(plot, points, result.law)
        screen.say(f"plot: {plot}")
    if out is not None:
        write_law(out, result.law, {**more, "draws": draws_of(spread.laws)})
        screen.say(f"law: {out}; use it with `ckptgrow plan law --law {out}`")
    screen.result(
        {
            "law": result.law.options(),
            **more,
            "undetermined": list(spread.undetermined(result.law)),
            "left_out": [left_out(one) for one in found],
            "out": None if out is None else str(out),
        }
    )


def _say(result: Fit, spread: LawErrors, screen: Screen) -> None:
    values = result.law.options()
    screen.table(
        f"{result.regression.form} form, {len(result.points.losses):,} evaluations of "
        f"{len(set(result.points.curves.tolist()))} curves",
        ("constant", "value", "standard error", "90 % of resamples", "error if independent"),
        [
            (one, f"{values[one]:.6g}", f"{error:.2g}", "{:.5g} to {:.5g}".format(*spread.intervals[one]),
             f"{result.independent_errors[one]:.2g}")
            for one, error in spread.standard_errors.items()
        ],
    )  # fmt: skip
    drawn = "whole curves" if spread.resampling == "curves" else f"blocks of {min(spread.block)} evaluations"
    if spread.block and max(spread.block) > min(spread.block):
        drawn = f"blocks of {min(spread.block)} to {max(spread.block)} evaluations"
    screen.say(
        f"Residuals of log L: {result.residual:.2%} (root mean square). Errors: bootstrap of {drawn}, "
        f"{len(spread.laws)} resamples, seed {spread.seed}."
    )
    undetermined = spread.undetermined(result.law)
    if result.regression.form == "hoffmann" and not result.has_floor:
        screen.warn("the curves show no floor: it came to the lowest value of the search; use --form kaplan")
    elif undetermined:
        screen.warn(
            f"{', '.join(undetermined)}: as uncertain as they are large, so that plans by this law mean little; add "
            "sizes farther apart or longer curves"
        )


def _as_tree(result: Fit, spread: LawErrors) -> dict[str, object]:
    return {
        "standard_errors": spread.standard_errors,
        "fit": {
            "residual": result.residual,
            "points": len(result.points.losses),
            "errors": spread.resampling,
            "seed": spread.seed,
            "resamples": len(spread.laws),
            "block": list(spread.block),
            "intervals": {name: list(one) for name, one in spread.intervals.items()},
            "independent_errors": result.independent_errors,
        },
    }
