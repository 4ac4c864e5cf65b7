"""Options that several commands below `eval` share, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import typer

from ckptgrow.choices import EvalDtype, Measure
from ckptgrow.commands._paths import directories_of, file_for, file_of, whole_checkpoint_at
from ckptgrow.errors import RequestError
from ckptgrow.storage.files.file_signs import SAMPLES

CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CKPT", help="The checkpoint.", show_default=False, callback=whole_checkpoint_at)
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="A local file instead of the hub's data.", show_default=False, callback=file_of("a file to evaluate on")
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        help="A tokenizer's directory, a name on the hub, or 'bytes' (ids are bytes); by default the one beside the "
        "checkpoint, or the one that its data's meta.json names.",
        show_default=False,
    ),
]
BatchSizeOption = Annotated[
    str, typer.Option(help="Sequences at a time; 'auto': what a GPU's memory holds, or 256 MiB of logits on a CPU.")
]
DeviceOption = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N.")]
DtypeOption = Annotated[EvalDtype, typer.Option(help="What the model computes in.")]
LimitOption = Annotated[
    float | None,
    typer.Option(
        help="Documents (or blocks) of each task; a share of them below 1. For trying out.", show_default=False
    ),
]
SamplesOption = Annotated[
    Path | None,
    typer.Option(
        help="Write every document's answers there, as JSON lines (.jsonl).",
        show_default=False,
        callback=file_for(SAMPLES),
    ),
]
BootstrapOption = Annotated[
    int | None,
    typer.Option(help="Resamples for standard errors that have no formula; 0 for none [default: lm-eval's 100000]."),
]
TasksOption = Annotated[
    str,
    typer.Option(
        help="lm-eval's tasks, groups, tags or patterns, by commas: lambada_openai,wikitext,arc_*.", show_default=False
    ),
]
TaskDataOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK=FILE",
        help="A local file for a task; may be repeated.",
        show_default=False,
        callback=lambda entries: entries and [f"{task}={file}" for task, file in local_files(entries).items()],
    ),
]
IncludeOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="A directory with task definitions of your own; may be repeated.",
        show_default=False,
        callback=directories_of("definitions of tasks"),
    ),
]
FewshotOption = Annotated[
    int | None,
    typer.Option(help="Examples put before each question; by default the task's.", show_default=False),
]
BlockSizeOption = Annotated[
    int | None, typer.Option(help="Tokens in a block; by default the model's context.", show_default=False)
]
MeasureOption = Annotated[
    Measure, typer.Option(help="'lm-eval': its task; 'original': what the staged-training script computes.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file of --samples if it exists.")]


def local_files(entries: Sequence[str] | None) -> dict[str, Path]:
    """Reads TASK=FILE entries into files by task; raises RequestError for other entries, DataError for no file."""
    files: dict[str, Path] = {}
    for entry in entries or ():
        task, equals, file = entry.partition("=")
        if not (task and equals and file):
            raise RequestError(f"--data {entry}: expected TASK=FILE, as lambada_openai=passages.jsonl")
        files[task] = cast(Path, file_of("a file to evaluate on")(Path(file)))
    return files


def only_original(measure: Measure, given: set[str]) -> None:
    """Raises RequestError where options of the measure `original` are given with another one."""
    if measure == "lm-eval" and given:
        raise RequestError(f"{', '.join(sorted(given))}: only with --measure original")
