"""A figure of a plan from a law: the expected curve of every stage, and of the last model from scratch."""

from __future__ import annotations

from pathlib import Path

from ckptgrow.planning.expected_curves import course_alone, courses
from ckptgrow.planning.figure_style import AXIS, COLOURS, GRAY, RED, paper_axes, save, short_number, tick_losses
from ckptgrow.planning.law_plan import LawPlan, Stage


def draw_law(path: Path, plan: LawPlan) -> None:
    """Writes a log-log figure of loss against the compute spent so far, in the format that the path's ending says."""
    figure, axes = paper_axes()
    alone, staged = course_alone(plan), courses(plan)
    axes.plot(alone.compute, alone.losses, color=GRAY, label=f"{short_number(alone.params)} from scratch")
    for number, one in enumerate(staged):
        axes.plot(
            one.compute,
            one.losses,
            color=COLOURS[number % len(COLOURS)],
            label=f"stage {number + 1}: {short_number(one.params)}",
        )
    for stage, one in zip(plan.stages[1:], staged[1:], strict=True):
        place = float(one.compute[0]), float(one.losses[0])
        axes.plot(*place, "o", color=RED, markersize=4.5, zorder=5)
        axes.annotate(_growth(stage), place, (-5, -5), textcoords="offset points", fontsize=7.5, ha="right", va="top")
    last = float(staged[-1].losses[-1])
    axes.annotate(
        "",
        (plan.compute, last),
        (plan.compute_alone, last),
        arrowprops={"arrowstyle": "-|>", "color": RED, "lw": 1.0, "shrinkA": 0, "shrinkB": 0},
    )
    axes.annotate(f"saves {plan.saving:.1%}", ((plan.compute * plan.compute_alone) ** 0.5, last), (0, -4),
                  textcoords="offset points", fontsize=7.5, ha="center", va="top", color=RED)  # fmt: skip
    low, high = 0.95 * last, float(alone.losses[0])
    axes.set_xlim(float(staged[0].compute[0]) / 1.3, plan.compute_alone * 2)
    axes.set_ylim(low, high)
    tick_losses(axes, low, high)
    axes.set(xlabel=AXIS[0], ylabel="loss (nats)")
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    save(figure, path)


def _growth(stage: Stage) -> str:
    return "grow" if stage.growth is None else f"{stage.growth.operator} × {stage.growth.factor}"
