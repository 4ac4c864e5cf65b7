"""`ckptgrow eval`, with the commands below it."""

from __future__ import annotations

import typer

from ckptgrow.commands._help import PanelledCommand
from ckptgrow.commands.eval.compare import compare
from ckptgrow.commands.eval.lambada import lambada
from ckptgrow.commands.eval.perplexity import perplexity
from ckptgrow.commands.eval.run import run
from ckptgrow.commands.eval.wikitext import wikitext

eval_app = typer.Typer(
    help="Evaluate checkpoints of any kind through lm-eval, or as the staged-training paper did.",
    rich_markup_mode=None,
    add_completion=False,
)

for command in (lambada, wikitext, run, perplexity, compare):
    eval_app.command(cls=PanelledCommand)(command)
