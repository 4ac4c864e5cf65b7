"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptgrow.choices import DecayRule, LrRuleName, MomentRule
from ckptgrow.commands._paths import checkpoint_at, config_at, grown_at
from ckptgrow.commands._values import checked_size

InArgument = Annotated[
    Path, typer.Argument(metavar="IN", help="The checkpoint to grow.", show_default=False, callback=checkpoint_at)
]
OutArgument = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="Where to write; of the same kind.", show_default=False, callback=grown_at),
]
LrRuleOption = Annotated[
    LrRuleName,
    typer.Option(
        help="Learning rates: 'keep' as they are, or 'mup' so that the trajectory is kept; 'completed-p' is mup with "
        "that parametrisation's decay, the default one."
    ),
]
DecayRuleOption = Annotated[
    DecayRule,
    typer.Option(
        help="With --lr-rule mup, decoupled weight decay: 'trajectory' (times as large as the rate is smaller), 'sqrt' "
        "(the root of that), or 'keep'."
    ),
]
StepOption = Annotated[
    str,
    typer.Option(
        help="Schedule step to go on from: 'keep', 'auto' (divided by the operator's ρ), or a number of steps."
    ),
]
ScheduleOption = Annotated[
    str,
    typer.Option(
        help="With --step, what a LambdaLR's function is: one of transformers' as 'cosine:warmup=100,total=5000', or "
        "'lambda' for one of your script's, whose first step then uses the old learning rate.",
        show_default=False,
    ),
]
RewarmOption = Annotated[int, typer.Option(help="Steps over which the learning rate rises again; 0 for none.")]
ResetOption = Annotated[
    str,
    typer.Option(
        help="Parts to leave out, by commas: 'optimizer', 'schedule', or 'new', the moments of entries whose row, "
        "column or layer is new.",
        show_default=False,
    ),
]
MomentsOption = Annotated[
    MomentRule,
    typer.Option(
        help="Moments of old entries and of copies: 'algebra', those that the grown model would have gathered, or "
        "'unscaled', the old ones as they are."
    ),
]
AveragedOption = Annotated[
    bool, typer.Option("--averaged", help="Take the average of the weights that `train --ema` keeps, not the weights.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="A transformers config.json, where the checkpoint has none.", show_default=False, callback=config_at
    ),
]
DialectOption = Annotated[
    str | None,
    typer.Option(
        help="The trainer whose names and forms they are, or a file that says one's own; most are recognised.",
        metavar="NAME|FILE",
        show_default=False,
    ),
]
ParamOrderOption = Annotated[
    Path | None,
    typer.Option(help="A file with one parameter name a line, in the optimizer's order.", show_default=False),
]
DropOption = Annotated[
    list[str] | None, typer.Option(help="A tensor, key or file to leave out; may be repeated.", show_default=False)
]
AllowNonfiniteOption = Annotated[bool, typer.Option("--allow-nonfinite", help="Grow NaN and infinity too.")]
MaxShardSizeOption = Annotated[
    str,
    typer.Option(
        help="Largest file of weights in a Hugging Face directory, as 5GB or 200MB (decimal units).",
        callback=checked_size("--max-shard-size"),
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace OUT if something of its kind is there.")]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Tell sizes, parameters, bytes, rates and what is carried; write nothing, read no tensor."
    ),
]
