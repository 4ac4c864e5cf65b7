"""`ckptgrow probe`."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ckptgrow.choices import Operator, words_of
from ckptgrow.commands import _options as options
from ckptgrow.commands._interruption import interrupted
from ckptgrow.commands._paths import data_at, directory_for_work
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands._spelling import spelled, spelled_in
from ckptgrow.commands._values import chosen_by_commas
from ckptgrow.errors import needs
from ckptgrow.probe.limits import check_steps, read_budget
from ckptgrow.ranges import read

if TYPE_CHECKING:
    from ckptgrow.probe.candidates import Candidate
    from ckptgrow.probe.report_of_probe import ProbeReport

COLUMNS = ("candidate", "mean loss", "difference", "95 %", "slope", "jump", "spike", "gradients", "")


def probe(
    source: options.InArgument,
    data: Annotated[
        str,
        typer.Option(
            help="A directory that `ckptgrow data` wrote, or several with weights, as A:0.7,B:0.3.",
            metavar="DIR",
            show_default=False,
            callback=data_at,
        ),
    ],
    operators: Annotated[
        str, typer.Option(help="Whose tables of candidates are compared, by commas: 'width', 'depth'.")
    ] = "width",
    factor: Annotated[int, typer.Option(help="How many times as wide or deep.")] = 2,
    candidates: Annotated[
        str,
        typer.Option(
            help="Names in the tables, by commas, or a YAML or JSON file of your own [default: all of the tables].",
            metavar="NAMES|FILE",
            show_default=False,
        ),
    ] = "",
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="One of your own, as you would type it: 'width --separate none --reset new --rewarm-new 1.3,100'; may "
            "be repeated.",
            metavar="WORDS",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="What it may take: a share of the FLOPs spent so far, as 2%, or FLOPs, as 1e15.")
    ] = "2%",
    steps: Annotated[
        str,
        typer.Option(
            help="Optimizer steps at which the better half goes on, as 64,256,1024, instead of a budget.",
            show_default=False,
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(help="Draws of each recipe that draws.")] = 1,
    seed: Annotated[int, typer.Option(help="The first draw's seed.")] = 0,
    sequences: Annotated[int, typer.Option(help="Held-out sequences to compare by.")] = 256,
    train: Annotated[
        str,
        typer.Option(
            help="Options of ckptgrow train for all, as you would type them: '--lr 3e-4 --batch-size 8' [default: "
            "those of the checkpoint, at a constant rate].",
            metavar="WORDS",
            show_default=False,
        ),
    ] = "",
    processes: Annotated[int, typer.Option(help="Candidates at once, each on a GPU where there are.")] = 1,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Where candidates are trained, to go on there [default: a directory that goes at the end].",
            callback=directory_for_work,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the recipe of a growth by short trainings on your own checkpoint and data.

    Candidates are grown, trained over the same batches and compared on the same held-out sequences; the better half
    goes on. Prints a table, what is level with the best, and the winner's command.

    Examples:
        ckptgrow probe small.ckpt --data prepared                                   # for 2 % of what was spent so far
        ckptgrow probe small.ckpt --data prepared --operators depth --factor 2 --steps 64,256
        ckptgrow probe small.ckpt --data prepared --candidates split --candidate 'width --how tile --reset new'
    """
    screen = Screen(as_json)
    among = cast("list[Operator]", list(chosen_by_commas("--operators", operators, words_of(Operator))))
    rungs = check_steps([int(read("steps", one)) for one in steps.split(",")]) if steps else None
    read_budget(budget)
    with needs("probe", "train,plan"):
        from ckptgrow.probe.candidates import in_file, named, typed
        from ckptgrow.recipes.command_words import options_in_words
        from ckptgrow.recipes.recipe_options import PLACES_OF_TRAINING, train_fields, typed_train_options
    asked: list[Candidate] = [typed(one) for one in candidate or ()]
    if candidates or not asked:
        path = Path(candidates).expanduser()
        is_file = path.suffix in (".yaml", ".yml", ".json")
        asked += in_file(path) if is_file else named(_names(candidates), among)
    where = f"--train {train}"
    options = typed_train_options(PLACES_OF_TRAINING).checked(options_in_words(shlex.split(train), where), where)
    with needs("probe", "train,plan"):
        from ckptgrow.probe.entrants import ProbeRequest
        from ckptgrow.probe.probing import probe as run_probe
        from ckptgrow.train.guards import Interrupted
    request = ProbeRequest(
        candidates=tuple(asked),
        factor=factor,
        steps=rungs,
        budget=budget,
        seeds=seeds,
        seed=seed,
        sequences=sequences,
        train=train_fields(options),
        processes=processes,
    )
    try:
        with _place(work) as directory, screen.stages() as stage:
            found = run_probe(source, data, directory, request, lambda one: screen.note(spelled(one)), stage)
    except Interrupted as interruption:
        screen.warn(interrupted("probe", interruption.number))
        raise typer.Exit(128 + interruption.number) from interruption
    _show(found, screen)


@contextmanager
def _place(work: Path | None) -> Generator[Path]:
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="ckptgrow-probe-") as directory:
        yield Path(directory)


def _names(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _show(found: ProbeReport, screen: Screen) -> None:
    from ckptgrow.probe.report_of_probe import ranking, verdict
    from ckptgrow.probe.rungs import groups_of

    last = groups_of(found.rungs[-1])[-1]

    rows = [
        (
            one.candidate.name,
            one.loss,
            None if one.behind is None else one.behind.mean,
            None if one.behind is None else f"{one.behind.low:.4f} to {one.behind.high:.4f}",
            one.slope,
            one.jump,
            one.spike,
            one.gradients,
            spelled(one.out or verdict(one.candidate.name, found.winner.name, found.level)),
        )
        for one in found.entries
    ]
    rows += [(one.name, one.loss, *[None] * 6, f"control, {one.steps:,} steps") for one in found.controls]
    screen.table("", COLUMNS, rows)
    screen.say(
        f"mean loss: over the held-out sequences, and over the measurements at steps {', '.join(map(str, last))} (or "
        "where as much compute was spent); difference: to the lowest of those that went as far."
    )
    screen.say(f"{ranking(found.winner.name, found.level, found.rungs[-1])}. {found.flops:.3g} FLOPs.")
    for words in found.commands:
        screen.say(shlex.join(words))
    screen.result(spelled_in(found.to_json()))
