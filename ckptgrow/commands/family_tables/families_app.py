"""`ckptgrow families`, with the commands below it."""

from __future__ import annotations

import typer

from ckptgrow.commands._help import PanelledCommand
from ckptgrow.commands.family_tables.check_table import check_table
from ckptgrow.commands.family_tables.list_tables import list_tables
from ckptgrow.commands.family_tables.new_table import new_table

families_app = typer.Typer(
    help="The tables of the families that can be grown, and drafts of new ones.",
    rich_markup_mode=None,
    add_completion=False,
)
families_app.command("list", cls=PanelledCommand)(list_tables)
families_app.command("new", cls=PanelledCommand)(new_table)
families_app.command("check", cls=PanelledCommand)(check_table)
