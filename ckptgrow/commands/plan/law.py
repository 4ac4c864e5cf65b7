"""`ckptgrow plan law`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ckptgrow.choices import OperatorName, RateRule, words_of
from ckptgrow.commands._paths import file_for
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._values import chosen_by_commas
from ckptgrow.commands.plan._curve_logs import PlotOption
from ckptgrow.commands.plan._law_report import as_tree, say
from ckptgrow.errors import RequestError
from ckptgrow.ranges import read
from ckptgrow.storage.files.file_signs import PLANS

if TYPE_CHECKING:
    from ckptgrow.planning.law_plan import LawPlan, Target
    from ckptgrow.planning.laws import Law

ANY, CRITICAL = "any", "critical"
TOKENS_PER_STEP = 512 * 1024  # the staged-training paper's, for laws without a critical batch size
LARGEST_FACTOR, LARGEST_RATIO = 2.0, 8.0  # defaults: of an operator, and of parameters with --operators any


def law(
    target_params: Annotated[
        float | None, typer.Option(help="Parameters without embeddings of the last model [default: what is best].")
    ] = None,
    target_loss: Annotated[
        float | None, typer.Option(help="Final loss in nats [default: the one for which --target-params is best].")
    ] = None,
    stages: Annotated[int, typer.Option(help="Models trained, one after the other.")] = 2,
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
            "--law",
            help="kaplan, hoffmann, besiroglu (hoffmann's, fitted anew), staged-training (its code's constants), or a "
            "file of `ckptgrow plan fit`.",
        ),
    ] = "kaplan",
    lr_rule: Annotated[
        str | None,
        typer.Option(
            help="Peak learning rates: 0.003239 − 0.0001395 · log N with 'log10', as the staged-training script and "
            "ckptgrow train have it, or 'natural', as Kaplan et al. do, up to 1.5e9 parameters; 'gpt3', the rates of "
            "GPT-3's models; or a number for all stages [default: log10, and gpt3 for larger models].",
            metavar="log10|natural|gpt3|X",
            show_default=False,
        ),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(help="Steps of the first model's warm-up, for --out [default: 0.05 of all, at most 2000]."),
    ] = None,
    rewarm: Annotated[
        int | None,
        typer.Option(help="Steps over which the rate rises again after growth [default: 3 % of a stage's run]."),
    ] = None,
    seqlen: Annotated[int, typer.Option(help="Tokens a sequence, for --out.")] = 1024,
    data: Annotated[str, typer.Option(help="The prepared data that the commands of --out name.")] = "prepared",
    plot: PlotOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the plan here (.yaml).", show_default=False, callback=file_for(PLANS))
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the stages that reach a target with the least compute by a scaling law, and τ and ρ of each operator.

    L = E + a·N^−α + b·u^−β with u steps (Kaplan et al. 2020) or tokens (Hoffmann et al. 2022), or constants of your
    own.

    Examples:
        ckptgrow plan law --target-params 1.5e9 --out plan.yaml
        ckptgrow plan law --target-loss 3.2 --operators width --law law.yaml
    """
    number = _number(lr_rule)
    if batch is not None:
        read("batch", batch, CRITICAL)
    _check_operators(operators, max_factor)
    from ckptgrow.planning.law_files import law_of
    from ckptgrow.planning.law_plan import law_plan

    if out is not None and operators == ANY:
        raise RequestError("--out: --operators any gives ratios that no operator makes, expected width, depth or both")
    known = law_of(scaling_law)
    target = _target(target_params, target_loss, stages, operators, max_factor)
    screen = Screen(as_json)
    found, rule = _with_rates(
        law_plan(known, target, _batch(batch, known), lambda _: math.nan), lr_rule, number, screen
    )
    say(found, screen, rule)
    if plot is not None:
        from ckptgrow.planning.law_figure import draw_law

        draw_law(plot, found)
        screen.say(f"plot: {plot}")
    if out is not None:
        from ckptgrow.planning.plan_file import RunSettings, plan_file
        from ckptgrow.train.train_recipes import MODERN

        warmup = MODERN.warmup if warmup_steps is None else lambda _: warmup_steps
        written = plan_file(
            out, found, RunSettings(data=data, seqlen=seqlen, rewarm=rewarm, lr_rule=rule, warmup=warmup)
        )
        screen.say(f"plan: {written[0]}, with the first model's config in {written[1]}")
    screen.result({**as_tree(found), "lr_rule": rule, "out": None if out is None else str(out)})


def _check_operators(operators: str, max_factor: float | None) -> None:
    """Raises RequestError for operators that there are not, and a factor that they cannot have."""
    if operators == ANY:
        return
    names = chosen_by_commas("--operators", operators, (*words_of(OperatorName), ANY))
    if not names or ANY in names:
        raise RequestError(f"--operators {operators}: expected width, depth and both by commas, or any alone")
    if max_factor is not None and max_factor < 2:
        raise RequestError(f"--max-factor {max_factor:g}: expected at least 2; operators have whole factors")


def _target(params: float | None, loss: float | None, stages: int, operators: str, max_factor: float | None) -> Target:
    from ckptgrow.planning.law_plan import Target
    from ckptgrow.planning.operators import growths

    if operators == ANY:
        largest = LARGEST_RATIO if max_factor is None else max_factor
        return Target(
            params=params,
            loss=loss,
            num_stages=stages,
            growths=growths(("depth", "width", "both"), 2),
            any_ratio=(1.0, largest),
        )
    names = chosen_by_commas("--operators", operators, words_of(OperatorName))
    largest = LARGEST_FACTOR if max_factor is None else max_factor
    return Target(
        params=params,
        loss=loss,
        num_stages=stages,
        growths=growths(cast("tuple[OperatorName, ...]", names), int(largest)),
    )


def _batch(value: str | None, law: Law) -> float | None:
    if value is None:
        return None if law.has_critical_batch else float(TOKENS_PER_STEP)
    if value == CRITICAL:
        if not law.has_critical_batch:
            raise RequestError(
                f"--batch critical: the law {law.name} has no critical batch size, expected tokens a step"
            )
        return None
    return float(value)


def _number(rule: str | None) -> float | None:
    """The learning rate, where --lr-rule is a number; None where it names a rule."""
    found = None if rule is None else read("lr_rule", rule, *words_of(RateRule))
    return found if isinstance(found, float) else None


def _with_rates(plan: LawPlan, rule: str | None, number: float | None, screen: Screen) -> tuple[LawPlan, str]:
    """The plan with its learning rates, and their rule's name.

    Without --lr-rule the one that the largest model allows.
    """
    from ckptgrow.planning.rates_by_size import LARGEST_FITTED, RULES

    if number is not None:
        return plan.with_rates(lambda _: number), str(rule)
    largest = max(one.params for one in plan.stages)
    name = rule or ("log10" if largest <= LARGEST_FITTED else "gpt3")
    try:
        found = plan.with_rates(RULES[name])  # pyright: ignore[reportArgumentType]
    except RequestError as error:
        raise RequestError(f"--lr-rule {name}: {error.message.marked}") from error
    if rule is None and name != "log10":
        screen.warn(
            f"learning rates are those of GPT-3's models (--lr-rule gpt3): the formula of smaller ones was found on up "
            f"to {LARGEST_FITTED:.2g} parameters, and the last model has {largest:.3g}"
        )
    return found, name
