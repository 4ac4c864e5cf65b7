"""`ckptgrow eval compare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._paths import whole_checkpoint_at, whole_checkpoints_at
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.commands.eval._eval_options import local_files
from ckptgrow.commands.eval._eval_session import Session, TaskChoices, session
from ckptgrow.errors import listing

if TYPE_CHECKING:
    from ckptgrow.evaluate.evaluation import Evaluation
    from ckptgrow.evaluate.score_comparison import Comparison
    from ckptgrow.evaluate.tasks import Loaded


@takes("choices", TaskChoices)
def compare(
    *,
    small: Annotated[
        Path, typer.Argument(metavar="SMALL", help="What the others are compared with.", callback=whole_checkpoint_at)
    ],
    grown: Annotated[list[Path], typer.Argument(metavar="GROWN...", help="The others.", callback=whole_checkpoints_at)],
    tasks: options.TasksOption,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Exit 1 where a score differs relatively by more than that.", show_default=False),
    ] = None,
    choices: TaskChoices,
    as_json: JsonOption = False,
) -> int:
    """Several checkpoints side by side.

    With differences from SMALL and their standard errors, paired by document. Right after growth every score must be
    equal. All are read with SMALL's tokenizer; --config is SMALL's. The task 'perplexity' is loss by token of a file
    (--data perplexity=FILE), by default of the validation tokens of SMALL's run.

    Examples:
        ckptgrow eval compare small.ckpt wide.ckpt --tasks perplexity
        ckptgrow eval compare small.ckpt wide.ckpt --tasks lambada_openai --data lambada_openai=lambada.jsonl
    """
    with session(choices, as_json, small, *grown) as work:
        from ckptgrow.evaluate.score_comparison import compare as compare_evaluations
        from ckptgrow.evaluate.subject import tokenizer_of

        asked = _asked(tasks, local_files(choices.data), small)
        loaded = work.load(asked.tasks, asked.local, choices.include_path or ()) if asked.tasks else None
        shared = replace(choices, tokenizer=tokenizer_of(small, choices.tokenizer))
        works = [replace(work, choices=shared)] + [replace(work, choices=replace(shared, config=None))] * len(grown)
        evaluations = [_evaluated(one, path, loaded, asked) for one, path in zip(works, (small, *grown), strict=True)]
        done = [one for one in evaluations if one is not None]
        if not done:
            return 0
        comparison = compare_evaluations(done, loaded)
        work.write_samples(done)
        _show(comparison, work)
        return 1 if tolerance is not None and comparison.exceeding(tolerance) else 0


@dataclass(frozen=True)
class _Asked:
    """lm-eval's tasks by commas, the local files that they run on, and the file of tokens or text for perplexity."""

    tasks: str
    local: Mapping[str, Path]
    tokens: Path | None


def _asked(tasks: str, local: Mapping[str, Path], small: Path) -> _Asked:
    from ckptgrow.evaluate.blocks import PERPLEXITY
    from ckptgrow.evaluate.subject import validation_of

    names = [name.strip() for name in tasks.split(",")]
    if PERPLEXITY not in names:
        return _Asked(tasks, local, None)
    others = {name: file for name, file in local.items() if name != PERPLEXITY}
    tokens = local[PERPLEXITY] if PERPLEXITY in local else validation_of(small)
    return _Asked(",".join(name for name in names if name != PERPLEXITY), others, tokens)


def _evaluated(work: Session, path: Path, loaded: Loaded | None, asked: _Asked) -> Evaluation | None:
    """One checkpoint on lm-eval's tasks, and on the file for perplexity."""
    from ckptgrow.evaluate.blocks import PERPLEXITY, file_loss

    found = None if loaded is None else work.run(path, loaded)
    if asked.tokens is None:
        return found
    subject = work.open(path, asked.tokens)
    lost = file_loss(PERPLEXITY, asked.tokens, subject, work.settings, work.processes, work.progress)
    return lost if found is None or lost is None else found.with_others(lost)


def _show(comparison: Comparison, work: Session) -> None:
    from ckptgrow.evaluate.evaluation import metric_name
    from ckptgrow.planning.paired_differences import NO_DIFFERENCE

    names = [one.checkpoint.name for one in comparison.evaluations]
    labels = names if len(set(names)) == len(names) else [str(one.checkpoint) for one in comparison.evaluations]
    columns = ["task", "metric", labels[0]]
    for label in labels[1:]:
        columns += [label, "difference", "± paired"]
    rows: list[list[object]] = []
    for row in comparison.rows:
        cells: list[object] = [row.task, metric_name(row.metric), row.values[0]]
        for value, difference, error in zip(row.values[1:], row.differences, row.standard_errors, strict=True):
            cells += [value, difference, error]
        rows.append(cells)
    work.screen.table("", columns, rows)
    work.tell(tuple(dict.fromkeys(note for one in comparison.evaluations for note in one.notes)))
    largest = max((row.largest_relative for row in comparison.rows), default=0.0)
    work.screen.say(f"largest relative difference: {largest:.1e}" if largest else "all scores are equal")
    if unseen := [f"{row.task} {metric_name(row.metric)}" for row in comparison.rows if row.is_seen is False]:
        work.screen.say(f"{NO_DIFFERENCE} beyond 1.96 paired standard errors: {listing(unseen)}")
    work.screen.result(comparison.to_json())
