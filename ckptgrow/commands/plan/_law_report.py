"""What `ckptgrow plan law` shows: tables, a sentence, a small plot, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptgrow.commands._screen import Screen

if TYPE_CHECKING:
    from ckptgrow.planning.law_plan import LawPlan

LEAST = 5e-4  # of the compute: what rounds to 0.1 %


def say(plan: LawPlan, screen: Screen, lr_rule: str) -> None:
    """Shows tables and a sentence, and on a terminal a small plot."""
    screen.table(
        f"growths to the last model, by the law {plan.law.name}",
        ("growth", "params ×", "τ", "ρ", "loss", "saves"),
        [
            (f"{one.growth.operator} × {one.growth.factor}", one.growth.ratio, f"{one.tau:.4f}", f"{one.rho:.3f}",
             f"{one.loss:.3f}", f"{one.saving:.1%}")
            for one in plan.constants
        ],
    )  # fmt: skip
    screen.table(
        "stages",
        ("", "growth", "params", "loss", "tokens/step", "from", "steps", "ρ", f"lr ({lr_rule})", "FLOPs"),
        [_row(number, plan) for number in range(len(plan.stages))],
    )
    last = plan.stages[-1]
    if len(plan.stages) > 1 and (plan.saving < LEAST or last.steps == 0):
        screen.say(
            f"Do not grow: by this law stages reach loss {last.loss:.4f} with {plan.compute:.4g} FLOPs, "
            f"{plan.alone.sizes[-1]:.4g} parameters from scratch with {plan.compute_alone:.4g}, and the last growth "
            "lowers neither."
        )
    else:
        screen.say(_what_it_saves(plan))
    _warn(plan, screen)
    screen.picture(lambda width: _picture(plan, width))


def _what_it_saves(plan: LawPlan) -> str:
    return (
        f"{plan.compute:.4g} FLOPs to loss {plan.stages[-1].loss:.4f}, against {plan.compute_alone:.4g} for "
        f"{plan.alone.sizes[-1]:.4g} parameters from scratch: saves {plan.saving:.1%}"
        + (
            f", of which {plan.saving_of_batches:.1%} by smaller batches alone."
            if plan.saving_of_batches > LEAST
            else "."
        )
    )


def _warn(plan: LawPlan, screen: Screen) -> None:
    last = plan.stages[-1]
    empty = sum(one.steps == 0 for one in plan.stages)
    if empty:
        screen.warn(
            f"{empty} of {len(plan.stages)} stages have no steps: smaller models reach loss {last.loss:.4g} with less "
            "compute; ask for a lower --target-loss, fewer --stages or a smaller model"
        )
    beyond = [number for number, one in enumerate(plan.stages, start=1) if plan.law.extrapolates(one.params)]
    if beyond:
        law = plan.law
        screen.warn(
            f"the law {law.name} was fitted to models of {law.smallest_fitted:.3g} to {law.largest_fitted:.3g} "
            f"parameters: what it says of stage {' and '.join(map(str, beyond))} is an extrapolation"
        )


def _row(number: int, plan: LawPlan) -> tuple[object, ...]:
    stage = plan.stages[number]
    growth = "–" if number == 0 else f"{stage.params / plan.stages[number - 1].params:.3g} × parameters"
    if stage.growth is not None:
        growth = f"{stage.growth.operator} × {stage.growth.factor}"
    rho = None if stage.rho is None else f"{stage.rho:.3f}"
    sizes = (f"{stage.params:.4g}", f"{stage.loss:.4f}", round(stage.batch_tokens), stage.restart_step, stage.steps)
    return (number + 1, growth, *sizes, rho, f"{stage.learning_rate:.6f}", f"{stage.compute:.3g}")


def _picture(plan: LawPlan, width: int) -> list[list[tuple[str, str]]]:
    from ckptgrow.planning.expected_curves import course_alone, courses
    from ckptgrow.planning.terminal import Line, Mark, picture

    alone = course_alone(plan)
    staged = courses(plan)
    lines = [Line(alone.compute, alone.losses, "bright_black")]
    lines += [
        Line(one.compute, one.losses, ("blue", "green", "magenta")[index % 3]) for index, one in enumerate(staged)
    ]
    marks = [Mark(float(one.compute[-1]), float(one.losses[-1]), "●", "red") for one in staged]
    return picture(lines, marks, width=width)


def as_tree(plan: LawPlan) -> dict[str, object]:
    """The plan for JSON."""
    return {
        "law": plan.law.options(),
        "constants": [
            {"operator": one.growth.operator, "factor": one.growth.factor, "ratio": one.growth.ratio, "tau": one.tau,
             "rho": one.rho, "loss": one.loss, "saving": one.saving}
            for one in plan.constants
        ],
        "stages": [
            {
                "params": one.params,
                "operator": None if one.growth is None else one.growth.operator,
                "factor": None if one.growth is None else one.growth.factor,
                "loss_before": one.loss_before,
                "loss": one.loss,
                "batch_tokens": one.batch_tokens,
                "restart_step": one.restart_step,
                "steps": one.steps,
                "rho": one.rho,
                "learning_rate": one.learning_rate,
                "compute": one.compute,
            }
            for one in plan.stages
        ],
        "compute": plan.compute,
        "compute_alone": plan.compute_alone,
        "saving": plan.saving,
        "saving_of_batches": plan.saving_of_batches,
    }  # fmt: skip
