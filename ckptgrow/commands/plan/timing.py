"""`ckptgrow plan timing`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._options import DialectOption
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.plan._curve_logs import (
    LossOption,
    PlotOption,
    SpikesOption,
    StepColumnOption,
    left_out,
    say_left_out,
)
from ckptgrow.commands.plan._params import ParamsOption, check_larger, sizes_of
from ckptgrow.errors import RequestError

if TYPE_CHECKING:
    from ckptgrow.planning.growth_timing import Horizon, Timing
    from ckptgrow.planning.learning_curves import Curve
    from ckptgrow.planning.logs import Names
    from ckptgrow.planning.mixing import Mixing

SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # shares of all steps in the table
TOKENS_A_PARAMETER = 20  # beyond, gains of growth were mostly small
LARGEST_MISFIT = 0.05  # of the loss: a law that misses a curve by more was found on other data


def timing(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The small model's run, or its log.", show_default=False)],
    params: ParamsOption,
    tokens_per_step: Annotated[float, typer.Option(help="Tokens an optimizer step.", show_default=False)],
    train_steps: Annotated[
        int, typer.Option(help="Optimizer steps of the whole run, both models.", show_default=False)
    ],
    scaling_law: Annotated[
        str, typer.Option("--law", help="kaplan, hoffmann, besiroglu, staged-training, or a file of `plan fit`.")
    ] = "kaplan",
    decay_share: Annotated[float, typer.Option(help="Share of the steps in which the rate decays at the end.")] = 0.1,
    mixing: Annotated[
        float | None, typer.Option(help="Steps that the grown model takes to mix.", show_default=False)
    ] = None,
    pilot: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Logs from which the mixing time is measured: of a grown run, and of its model from scratch, both "
            "with steps since the small model's beginning.",
            metavar="GROWN SCRATCH",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Share of the loss within which a pilot is mixed.")] = 0.005,
    dialect: DialectOption = None,
    loss: LossOption = None,
    step_column: StepColumnOption = None,
    spikes: SpikesOption = "robust",
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell when growth pays in a run of a fixed length: from which step to which, when most, and when at the latest.

    A law is laid through the run's curve. With a pilot, growth is late: at the last step after which the grown model
    mixes before its rate decays, for which the rate must be constant until then (schedule wsd).

    Examples:
        ckptgrow plan timing small-run --params 5e6 2e7 --tokens-per-step 16384 --train-steps 20000 --plot when.png
    """
    if mixing is not None and pilot is not None:
        raise RequestError("--mixing and --pilot are both given, expected one of them")
    from ckptgrow.planning.growth_timing import Horizon
    from ckptgrow.planning.growth_timing import timing as timing_of
    from ckptgrow.planning.law_files import laws_of
    from ckptgrow.planning.learning_curves import curve_of
    from ckptgrow.planning.logs import Names, newest_log

    sizes = sizes_of(params, 2, "models", dialect)
    check_larger(sizes, params)
    laws = laws_of(scaling_law)
    names = Names(loss, step_column)
    curve = curve_of(newest_log(run, names), sizes[0], tokens_per_step, spikes)
    measured = None if pilot is None else _measured(pilot, names, tolerance)
    horizon = Horizon(
        small=sizes[0], large=sizes[1], batch=tokens_per_step, steps=train_steps, decay_share=decay_share,
        mixing=mixing if measured is None else measured.steps,
    )  # fmt: skip
    found = timing_of(curve, laws, horizon)
    screen = Screen(as_json)
    _say(found, horizon, curve, screen)
    _say_latest(found, horizon, measured, screen)
    say_left_out([curve], screen)
    if plot is not None:
        from ckptgrow.planning.timing_figure import draw_timing

        draw_timing(plot, found, float(curve.steps[-1]))
        screen.say(f"plot: {plot}")
    screen.result({**_as_tree(found, horizon, curve, measured), "left_out": left_out(curve)})


def _measured(pilot: tuple[Path, Path], names: Names, tolerance: float) -> Mixing:
    from ckptgrow.planning.learning_curves import curve_of
    from ckptgrow.planning.logs import newest_log
    from ckptgrow.planning.mixing import mixing_time

    grown, scratch = (curve_of(newest_log(one, names), 1.0, 1.0, "none") for one in pilot)
    return mixing_time(grown, scratch, tolerance)


def _say(found: Timing, horizon: Horizon, curve: Curve, screen: Screen) -> None:
    savings = found.savings
    rows = [int(abs(savings.steps / horizon.steps - one).argmin()) for one in SHOWN]
    screen.table(
        f"growth in a run of {horizon.steps:,} steps, by the law {savings.law.name} through {curve.where}",
        ("at step", "tokens after growth", "loss at growth", "final loss", "saves"),
        [
            (round(savings.steps[one]), f"{1 - savings.steps[one] / horizon.steps:.0%}", f"{savings.before[one]:.4f}",
             f"{savings.after[one]:.4f}", f"{savings.saved[one]:.1%}")
            for one in rows
        ],
    )  # fmt: skip
    if found.pays is None or found.window is None:
        screen.say(
            f"Do not grow: at no step of {horizon.steps:,} does growth reach its loss with less compute than the "
            "better of both models alone."
        )
    else:
        low, high = found.best_step_range
        screen.say(
            f"Growth pays from step {found.pays[0]:,.0f} to {found.pays[1]:,.0f}; most at step {found.best_step:,} "
            f"({low:,.0f} to {high:,.0f}), {1 - found.best_step / horizon.steps:.0%} of the tokens after it, and "
            f"nearly as much from {found.window[0]:,.0f} to {found.window[1]:,.0f}: {_saves(found)} {found.saving:.1%} "
            f"({found.saving_range[0]:.1%} to {found.saving_range[1]:.1%}) of the better model alone. "
            + _now(found, curve)
        )
    tokens = found.best_step * horizon.batch / horizon.small
    if tokens > TOKENS_A_PARAMETER and found.pays is not None:
        screen.warn(
            f"by step {found.best_step:,} the small model will have seen {tokens:.0f} tokens a parameter; beyond "
            f"{TOKENS_A_PARAMETER} growth was mostly found to save little (arXiv 2605.13405), for the base is saturated"
        )
    if found.misfit > LARGEST_MISFIT:
        screen.warn(
            f"the law {savings.law.name} missed the run's losses by {found.misfit:.0%} before it was moved there: it "
            "was found on other data; fit your own with `ckptgrow plan fit`"
        )


def _saves(found: Timing) -> str:
    from ckptgrow.planning.paired_differences import NO_DIFFERENCE

    low, high = found.saving_range
    return f"{NO_DIFFERENCE}, saves" if low <= 0 <= high else "saves"


def _now(found: Timing, curve: Curve) -> str:
    step = curve.steps[-1]
    assert found.window is not None
    if step < found.window[0]:
        return f"Not yet: the run is at step {step:,.0f}."
    return f"The run is at step {step:,.0f}: {'grow now' if step <= found.window[1] else 'later than that, grow soon'}."


def _say_latest(found: Timing, horizon: Horizon, measured: Mixing | None, screen: Screen) -> None:
    if measured is not None:
        low, high = measured.interval
        screen.say(
            f"The pilot mixes within {measured.steps:,.0f} steps ({low:,.0f} to {high:,.0f}), to "
            f"{measured.tolerance:.2%} of the loss."
        )
        if measured.share_without > 0:
            screen.warn(f"in {measured.share_without:.0%} of resamples the pilot never mixes; make it longer")
    if horizon.mixing is None:
        return
    if found.latest is None or found.latest_saving is None:
        screen.warn(
            f"with {horizon.mixing:,.0f} steps to mix and {horizon.decay_share:.0%} of decay, {horizon.steps:,} steps "
            "leave no time to grow"
        )
        return
    screen.say(
        f"At the latest at step {found.latest:,}, {1 - found.latest / horizon.steps:.0%} of the tokens after it: by "
        f"the mixing time the run then ends as the large model alone would, for {found.latest_saving:.1%} less compute."
    )


def _as_tree(found: Timing, horizon: Horizon, curve: Curve, measured: Mixing | None) -> dict[str, object]:
    savings = found.savings
    return {
        "log": curve.where,
        "step": int(curve.steps[-1]),
        "law": savings.law.name,
        "laws": found.num_laws,
        "misfit": found.misfit,
        "best_step": found.best_step,
        "best_step_range": list(found.best_step_range),
        "tokens_after": 1 - found.best_step / horizon.steps,
        "saving": found.saving,
        "saving_range": list(found.saving_range),
        "loss": found.loss,
        "window": None if found.window is None else list(found.window),
        "pays": None if found.pays is None else list(found.pays),
        "tokens_per_parameter": found.best_step * horizon.batch / horizon.small,
        "mixing": horizon.mixing,
        "mixing_interval": None if measured is None else list(measured.interval),
        "latest_step": found.latest,
        "latest_saving": found.latest_saving,
        "steps": [
            {"step": round(step), "loss_before": before, "loss": after, "saving": saved}
            for step, before, after, saved in zip(
                savings.steps.tolist(), savings.before.tolist(), savings.after.tolist(), savings.saved.tolist(),
                strict=True,
            )
        ],
    }  # fmt: skip
