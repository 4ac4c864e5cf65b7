"""`ckptgrow plan`, with the commands below it."""

from __future__ import annotations

import typer

from ckptgrow.commands._help import PanelledCommand
from ckptgrow.commands.plan._params import WithParams, WithTwoParams
from ckptgrow.commands.plan.curves import curves
from ckptgrow.commands.plan.fit import fit
from ckptgrow.commands.plan.law import law
from ckptgrow.commands.plan.show import show
from ckptgrow.commands.plan.timing import timing
from ckptgrow.commands.plan.watch import watch

plan = typer.Typer(
    help="Plan a staged training: when to grow, from where to go on, what it saves.",
    rich_markup_mode=None,
    add_completion=False,
)

KINDS = (
    (curves, WithTwoParams),
    (law, PanelledCommand),
    (fit, WithParams),
    (watch, PanelledCommand),
    (timing, WithTwoParams),
    (show, WithParams),
)
for command, kind in KINDS:
    plan.command(cls=kind)(command)
