"""`ckptgrow plan`, with the commands below it."""

from __future__ import annotations

import typer

from ckptgrow.commands._screen import help_if_bare
from ckptgrow.commands.plan.curves import curves
from ckptgrow.commands.plan.fit import fit
from ckptgrow.commands.plan.law import law
from ckptgrow.commands.plan.watch import watch

plan = typer.Typer(
    help="Plan a staged training: when to grow, from where to go on, what it saves.",
    rich_markup_mode=None,
)

for command in (curves, law, fit, watch):
    plan.command()(command)
plan.callback(invoke_without_command=True)(help_if_bare)
