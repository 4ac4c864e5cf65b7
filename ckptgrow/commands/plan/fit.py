"""`ckptgrow plan fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.choices import LawForm
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.plan._curve_logs import (
    LossOption,
    SpikesOption,
    StepColumnOption,
    left_out,
    say_left_out,
)
from ckptgrow.errors import RequestError


def fit(
    curves: Annotated[list[Path], typer.Argument(metavar="CURVE...", help="Logs of runs of several sizes.")],
    params: Annotated[
        list[str],
        typer.Option(help="Parameters without embeddings, a config.json or a checkpoint; once for each CURVE."),
    ],
    tokens_per_step: Annotated[float, typer.Option(help="Tokens an optimizer step.", show_default=False)],
    form: Annotated[
        LawForm,
        typer.Option(help="kaplan: (N, steps), with its critical batch size; hoffmann: (N, tokens), with a floor."),
    ] = "kaplan",
    from_step: Annotated[int, typer.Option(min=0, help="Leave out evaluations before it, as those of warm-up.")] = 0,
    loss: LossOption = None,
    step_column: StepColumnOption = None,
    spikes: SpikesOption = "robust",
    out: Annotated[Path | None, typer.Option(help="Write the law here (.yaml or .json).", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law's constants to learning curves of your own, for `plan law --law FILE`.

    Uses robust least squares on log L (Huber's loss); standard errors assume that evaluations are independent.

    Examples:
        ckptgrow plan fit small-run large-run --params 5e6 --params 2e7 --tokens-per-step 16384 --out law.yaml
    """
    if len(params) != len(curves):
        raise RequestError(f"--params: {len(params)} given for {len(curves)} curves, expected one for each")
    if tokens_per_step <= 0:
        raise RequestError(f"--tokens-per-step {tokens_per_step:g}: expected a number above zero")
    from ckptgrow.planning.fitting import fit as fit_law
    from ckptgrow.planning.fitting import gather
    from ckptgrow.planning.law_files import write_law
    from ckptgrow.planning.learning_curves import curve
    from ckptgrow.planning.logs import Names
    from ckptgrow.planning.model_size import model_size

    sizes = [model_size(one) for one in params]
    found = [
        curve(path, size, tokens_per_step, Names(loss, step_column), spikes).after(from_step)
        for path, size in zip(curves, sizes, strict=True)
    ]
    name = "fitted" if out is None else out.stem
    points = gather([(size, one.steps, one.losses) for size, one in zip(sizes, found, strict=True)], tokens_per_step)
    result = fit_law(points, form, name)  # pyright: ignore[reportArgumentType]
    screen = Screen(as_json)
    values = result.law.options()
    screen.table(
        f"{form} form, {result.num_points:,} evaluations of {len(curves)} curves",
        ("constant", "value", "standard error"),
        [(one, f"{values[one]:.6g}", f"{error:.2g}") for one, error in result.standard_errors.items()],
    )
    screen.say(f"Residuals of log L: {result.residual:.2%} (root mean square).")
    say_left_out(found, screen)
    more = {
        "standard_errors": result.standard_errors,
        "fit": {"residual": result.residual, "points": result.num_points},
    }
    if out is not None:
        write_law(out, result.law, more)
        screen.say(f"law: {out}; use it with `ckptgrow plan law --law {out}`")
    screen.result(
        {
            "law": values,
            **more,
            "left_out": [left_out(one) for one in found],
            "out": None if out is None else str(out),
        }
    )
