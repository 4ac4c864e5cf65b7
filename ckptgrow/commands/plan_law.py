"""`ckptgrow plan law`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands.growing import chosen
from ckptgrow.commands.plan_law_report import as_tree, say
from ckptgrow.commands.screen import JsonOption, Screen
from ckptgrow.errors import RequestError

if TYPE_CHECKING:
    from ckptgrow.planning.law_plan import Target
    from ckptgrow.planning.laws import Law

OPERATORS = ("width", "depth", "both")
ANY = "any"
LR_RULES = ("log10", "natural")
TOKENS_PER_STEP = 512 * 1024  # the staged-training paper's, for laws without a critical batch size
LARGEST_FACTOR, LARGEST_RATIO = 2.0, 8.0  # defaults: of an operator, and of parameters with --operators any


def law(
    target_params: Annotated[
        float | None, typer.Option(help="Parameters without embeddings of the last model [default: what is best].")
    ] = None,
    target_loss: Annotated[
        float | None, typer.Option(help="Final loss in nats [default: the one for which --target-params is best].")
    ] = None,
    stages: Annotated[int, typer.Option(min=1, help="Models trained, one after the other.")] = 2,
    operators: Annotated[
        str, typer.Option(help="Growths to choose from, by commas: width, depth, both; or 'any', any ratio of sizes.")
    ] = "width,depth,both",
    max_factor: Annotated[
        float | None,
        typer.Option(
            help="Largest whole factor of an operator [default: 2]; with --operators any, of parameters [default: 8]."
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Tokens a step, or 'critical': each stage's critical batch size at its last loss [default: critical "
            "where the law has one, else 524288].",
            metavar="critical|TOKENS",
        ),
    ] = None,
    scaling_law: Annotated[
        str,
        typer.Option(
            "--law", help="kaplan, hoffmann, staged-training (its code's constants), or a file of `ckptgrow plan fit`."
        ),
    ] = "kaplan",
    lr_rule: Annotated[
        str,
        typer.Option(
            help="Peak learning rate 0.003239 − 0.0001395 · log N: 'log10', as the staged-training script and ckptgrow "
            "train have it, or 'natural', as Kaplan et al. do."
        ),
    ] = "log10",
    rewarm: Annotated[int, typer.Option(min=0, help="Steps over which the rate rises again after growth.")] = 0,
    seqlen: Annotated[int, typer.Option(min=2, help="Tokens a sequence, for --out.")] = 1024,
    data: Annotated[str, typer.Option(help="The prepared data that the commands of --out name.")] = "prepared",
    plot: Annotated[Path | None, typer.Option(help="Write a picture here (.png).", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan here (.yaml).", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """The stages with the least compute for a target, by a scaling law; τ and ρ of each operator.

    L = E + a·N^−α + b·u^−β, u steps (Kaplan et al. 2020) or tokens (Hoffmann et al. 2022), or constants of your own.
    """
    from ckptgrow.planning.law_files import law_of
    from ckptgrow.planning.law_plan import law_plan
    from ckptgrow.planning.paper import check_ending

    chosen("--lr-rule", lr_rule, LR_RULES)
    if plot is not None:
        check_ending(plot)
    if out is not None and operators == ANY:
        raise RequestError("--out: --operators any gives ratios that no operator makes, expected width, depth or both")
    known = law_of(scaling_law)
    target = _target(target_params, target_loss, stages, operators, max_factor)
    found = law_plan(known, target, _batch(batch, known), _learning_rate(lr_rule))
    screen = Screen(as_json)
    say(found, screen, lr_rule)
    if plot is not None:
        from ckptgrow.planning.law_figure import draw_law

        draw_law(plot, found)
        screen.say(f"plot: {plot}")
    if out is not None:
        from ckptgrow.planning.plan_file import RunSettings, plan_file

        written = plan_file(out, found, RunSettings(data, seqlen, rewarm, lr_rule))
        screen.say(f"plan: {written[0]}, with the first model's config in {written[1]}")
    screen.result({**as_tree(found), "lr_rule": lr_rule, "out": None if out is None else str(out)})


def _target(params: float | None, loss: float | None, stages: int, operators: str, max_factor: float | None) -> Target:
    from ckptgrow.planning.law_plan import Target
    from ckptgrow.planning.operators import growths

    for option, value in (("--target-params", params), ("--target-loss", loss)):
        if value is not None and not 0 < value < math.inf:
            raise RequestError(f"{option} {value:g}: expected a number above zero")
    if operators == ANY:
        largest = LARGEST_RATIO if max_factor is None else max_factor
        if not 1 < largest < math.inf:
            raise RequestError(f"--max-factor {largest:g}: expected a number above 1")
        return Target(params, loss, stages, growths(("depth", "width", "both"), 2), (1.0, largest))
    names = [chosen("--operators", one.strip(), (*OPERATORS, ANY)) for one in operators.split(",") if one.strip()]
    largest = LARGEST_FACTOR if max_factor is None else max_factor
    if not names or ANY in names:
        raise RequestError(f"--operators {operators}: expected width, depth and both by commas, or any alone")
    if not 2 <= largest < math.inf:
        raise RequestError(f"--max-factor {largest:g}: expected at least 2; operators have whole factors")
    return Target(params, loss, stages, growths(names, int(largest)))


def _batch(value: str | None, law: Law) -> float | None:
    if value is None:
        return None if law.has_critical_batch else float(TOKENS_PER_STEP)
    if value == "critical":
        if not law.has_critical_batch:
            raise RequestError(
                f"--batch critical: the law {law.name} has no critical batch size, expected tokens a step"
            )
        return None
    try:
        tokens = float(value)
    except ValueError as error:
        raise RequestError(f"--batch {value}: expected critical or tokens a step") from error
    if not 1 <= tokens < math.inf:
        raise RequestError(f"--batch {value}: expected at least 1 token a step")
    return tokens


def _learning_rate(rule: str) -> Callable[[float], float]:
    from ckptgrow.train.schedule import lr_for_size

    def rate(params: float) -> float:
        # log10(N^ln 10) = ln N
        found = lr_for_size(round(params if rule == "log10" else params ** math.log(10)))
        if found <= 0:
            raise RequestError(f"--lr-rule {rule}: gives {found:.2g} for {params:.3g} parameters, expected log10")
        return found

    return rate
