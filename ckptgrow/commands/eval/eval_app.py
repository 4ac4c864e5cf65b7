"""`ckptgrow eval lambada|wikitext|run|perplexity|compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._options import ConfigOption
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands._values import chosen
from ckptgrow.commands.eval import _eval_session as options
from ckptgrow.commands.eval._eval_session import Choices, Session, session
from ckptgrow.errors import RequestError

if TYPE_CHECKING:
    from ckptgrow.evaluate.score_comparison import Comparison
    from ckptgrow.evaluate.task_documents import Documents

eval_app = typer.Typer(
    help="Evaluate checkpoints of any kind through lm-eval, or as the staged-training paper did.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@eval_app.command()
def lambada(
    checkpoint: options.CheckpointArgument,
    data: options.DataOption = None,
    measure: options.MeasureOption = "lm-eval",
    ignore_fragments: Annotated[
        bool, typer.Option("--ignore-fragments", help="original: only passages whose last token is a whole word.")
    ] = False,
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help='original: typographic and doubled quotes become ".')
    ] = False,
    leading_newline: Annotated[
        bool, typer.Option("--leading-newline", help="original: a line end before each passage.")
    ] = False,
    tokenizer: options.TokenizerOption = None,
    batch_size: options.BatchSizeOption = "auto",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    limit: options.LimitOption = None,
    samples: options.SamplesOption = None,
    bootstrap_iters: options.BootstrapOption = None,
    config: ConfigOption = None,
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """LAMBADA: the last word of each passage.

    Perplexity and greedy accuracy, by lm-eval's lambada_openai. --data takes JSON lines or parquet with `text`, or
    plain text with a passage a line. The original's measure is the accuracy of the last token.
    """
    chosen("--measure", measure, options.MEASURES)
    switches = {
        "--ignore-fragments": ignore_fragments,
        "--preprocess": preprocess,
        "--leading-newline": leading_newline,
    }
    _only_original(measure, {name for name, on in switches.items() if on})
    choices = Choices(tokenizer, batch_size, device, dtype, limit, samples, config, force, bootstrap_iters)
    with session(choices, as_json, checkpoint) as work:
        if measure == "lm-eval":
            loaded = work.load("lambada_openai", {} if data is None else {"lambada_openai": data})
            work.show(work.run(checkpoint, loaded))
            return
        from ckptgrow.evaluate.last_token import Reading, last_token_accuracy

        documents = _passages(work, data)
        reading = Reading(preprocess, leading_newline, ignore_fragments)
        subject = work.open(checkpoint)
        work.show(last_token_accuracy(subject, documents, reading, work.settings, work.processes, work.progress))


@eval_app.command()
def wikitext(
    checkpoint: options.CheckpointArgument,
    data: options.DataOption = None,
    measure: options.MeasureOption = "lm-eval",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="original: wikitext2, wikitext103 or openwebtext from the hub [default: wikitext2].",
            show_default=False,
        ),
    ] = None,
    block_size: options.BlockSizeOption = None,
    tokenizer: options.TokenizerOption = None,
    batch_size: options.BatchSizeOption = "auto",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    limit: options.LimitOption = None,
    samples: options.SamplesOption = None,
    config: ConfigOption = None,
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """WikiText: perplexity of whole pages.

    By word and by byte, and bits a byte, by lm-eval's wikitext (WikiText-2). --data takes text in WikiText's layout,
    or JSON lines or parquet with `page` (whole ones) or `text` (lines). The original's measure is the loss by token
    in blocks of --block-size (of a memory-mapped .bin too: there between a begin and an end token).
    """
    chosen("--measure", measure, options.MEASURES)
    given = {"--dataset": dataset, "--block-size": block_size}
    _only_original(measure, {name for name, value in given.items() if value is not None})
    if dataset is not None and data is not None:
        raise RequestError("--dataset and --data exclude each other; choose one")
    choices = Choices(tokenizer, batch_size, device, dtype, limit, samples, config, force)
    with session(choices, as_json, checkpoint) as work:
        if measure == "lm-eval":
            work.show(work.run(checkpoint, work.load("wikitext", {} if data is None else {"wikitext": data})))
        else:
            _original_loss(work, checkpoint, data, dataset or "wikitext2", block_size)


@eval_app.command()
def run(
    checkpoint: options.CheckpointArgument,
    tasks: options.TasksOption,
    data: options.TaskDataOption = None,
    include_path: options.IncludeOption = None,
    num_fewshot: options.FewshotOption = None,
    tokenizer: options.TokenizerOption = None,
    batch_size: options.BatchSizeOption = "auto",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    limit: options.LimitOption = None,
    samples: options.SamplesOption = None,
    bootstrap_iters: options.BootstrapOption = None,
    config: ConfigOption = None,
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Any of lm-eval's tasks."""
    choices = Choices(tokenizer, batch_size, device, dtype, limit, samples, config, force, bootstrap_iters, num_fewshot)
    with session(choices, as_json, checkpoint) as work:
        loaded = work.load(tasks, options.local_files(data), include_path or ())
        work.show(work.run(checkpoint, loaded))


@eval_app.command()
def perplexity(
    checkpoint: options.CheckpointArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Text, JSON lines, parquet, or a .bin of tokens.", show_default=False)
    ],
    block_size: options.BlockSizeOption = None,
    tokenizer: options.TokenizerOption = None,
    batch_size: options.BatchSizeOption = "auto",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    limit: options.LimitOption = None,
    samples: options.SamplesOption = None,
    config: ConfigOption = None,
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Loss and perplexity by token of a file.

    The loss is in nats a token; every token but the first is predicted once, from at most a block before it.
    JSON lines and parquet give the tokens that `ckptgrow data` makes of them; plain text is one document.
    """
    choices = Choices(tokenizer, batch_size, device, dtype, limit, samples, config, force)
    with session(choices, as_json, checkpoint) as work:
        from ckptgrow.data.documents import Remarks
        from ckptgrow.evaluate import blocks
        from ckptgrow.evaluate.tokens import is_memory_mapped, map_tokens, text_tokens

        subject = work.open(checkpoint, file)
        size = blocks.checked_block_size(block_size, subject)
        remarks = Remarks()
        tokens = map_tokens(file) if is_memory_mapped(file) else text_tokens(file, subject, remarks)
        cut = blocks.every_token(tokens, size)
        found = blocks.block_loss(file.name, subject, cut, work.settings, work.processes, work.progress)
        work.show(None if found is None else replace(found, notes=remarks.notes()))


@eval_app.command()
def compare(
    small: Annotated[Path, typer.Argument(metavar="SMALL", help="What the others are compared with.")],
    grown: Annotated[list[Path], typer.Argument(metavar="GROWN...", help="The others.")],
    tasks: options.TasksOption,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Exit 1 where a score differs relatively by more than that.", show_default=False),
    ] = None,
    data: options.TaskDataOption = None,
    include_path: options.IncludeOption = None,
    num_fewshot: options.FewshotOption = None,
    tokenizer: options.TokenizerOption = None,
    batch_size: options.BatchSizeOption = "auto",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    limit: options.LimitOption = None,
    samples: options.SamplesOption = None,
    bootstrap_iters: options.BootstrapOption = None,
    config: ConfigOption = None,
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> int:
    """Several checkpoints side by side.

    With differences from SMALL and their standard errors, paired by document. Right after growth every score must be
    equal. All are read with SMALL's tokenizer; --config is SMALL's.
    """
    choices = Choices(tokenizer, batch_size, device, dtype, limit, samples, config, force, bootstrap_iters, num_fewshot)
    with session(choices, as_json, small, *grown) as work:
        from ckptgrow.evaluate.score_comparison import compare as compare_evaluations
        from ckptgrow.evaluate.tokenizer import find_tokenizer

        loaded = work.load(tasks, options.local_files(data), include_path or ())
        shared = replace(choices, tokenizer=find_tokenizer(small, tokenizer))
        works = [replace(work, choices=shared)] + [replace(work, choices=replace(shared, config=None))] * len(grown)
        evaluations = [one.run(path, loaded) for one, path in zip(works, (small, *grown), strict=True)]
        done = [one for one in evaluations if one is not None]
        if not done:
            return 0
        comparison = compare_evaluations(done, loaded)
        work.write_samples(done)
        _show(comparison, work)
        return 1 if tolerance is not None and comparison.exceeding(tolerance) else 0


def _show(comparison: Comparison, work: Session) -> None:
    names = [one.checkpoint.name for one in comparison.evaluations]
    labels = names if len(set(names)) == len(names) else [str(one.checkpoint) for one in comparison.evaluations]
    columns = ["task", "metric", labels[0]]
    for label in labels[1:]:
        columns += [label, "difference", "± paired"]
    rows: list[list[object]] = []
    for row in comparison.rows:
        cells: list[object] = [row.task, options.metric_name(row.metric), row.values[0]]
        for value, difference, error in zip(row.values[1:], row.differences, row.standard_errors, strict=True):
            cells += [value, difference, error]
        rows.append(cells)
    work.screen.table("", columns, rows)
    work.tell(tuple(dict.fromkeys(note for one in comparison.evaluations for note in one.notes)))
    largest = max((row.largest_relative for row in comparison.rows), default=0.0)
    work.screen.say(f"largest relative difference: {largest:.1e}" if largest else "all scores are equal")
    work.screen.result(comparison.to_json())


def _only_original(measure: str, given: set[str]) -> None:
    if measure == "lm-eval" and given:
        raise RequestError(f"{', '.join(sorted(given))}: only with --measure original")


def _passages(work: Session, data: Path | None) -> Documents:
    from ckptgrow.evaluate.files import Text
    from ckptgrow.evaluate.task_documents import Documents, passages

    if data is not None:
        return passages(data)
    task = work.load("lambada_openai", {}).tasks["lambada_openai"]
    texts = tuple(Text(number, text) for number, text in enumerate(task.eval_docs["text"], start=1))
    return Documents("lambada_openai", "text", texts)


def _original_loss(work: Session, checkpoint: Path, data: Path | None, dataset: str, block_size: int | None) -> None:
    from ckptgrow.evaluate import blocks, tokens

    subject = work.open(checkpoint, *(() if data is None else (data,)))
    size = blocks.checked_block_size(block_size, subject)
    if data is not None and tokens.is_memory_mapped(data):
        end = tokens.end_token(subject)
        begin = subject.tokenizer.bos_token_id
        cut = blocks.framed_blocks(tokens.map_tokens(data), size, begin if isinstance(begin, int) else end, end)
    else:
        rows = tokens.hub_rows(dataset, subject) if data is None else tokens.file_rows(data, subject)
        cut = blocks.script_blocks(rows, size)
    task = dataset if data is None else data.name
    work.show(blocks.block_loss(task, subject, cut, work.settings, work.processes, work.progress))
