"""What the commands below `eval` have in common: evaluating checkpoints one after the other, and showing results."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ckptgrow.commands._options import AveragedOption, ConfigOption, DialectOption
from ckptgrow.commands._screen import Screen
from ckptgrow.commands._values import words_by_commas
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.errors import RequestError
from ckptgrow.ranges import read

if TYPE_CHECKING:
    from ckptgrow.evaluate.eval_settings import EvalSettings
    from ckptgrow.evaluate.evaluation import Evaluation
    from ckptgrow.evaluate.processes import EvalProcesses
    from ckptgrow.evaluate.progress_bars import Progress
    from ckptgrow.evaluate.subject import Subject
    from ckptgrow.evaluate.tasks import Loaded


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options that all these commands take."""

    tokenizer: options.TokenizerOption = None
    batch_size: options.BatchSizeOption = "auto"
    device: options.DeviceOption = "auto"
    dtype: options.DtypeOption = "float32"
    limit: options.LimitOption = None
    samples: options.SamplesOption = None
    config: ConfigOption = None
    dialect: DialectOption = None
    averaged: AveragedOption = False
    force: options.ForceOption = False

    def settings(self) -> EvalSettings:
        """The settings of the evaluation; raises RequestError where a value is out of range."""
        batch = read("batch_size", self.batch_size, "auto")
        if self.limit is not None and self.limit > 1 and self.limit != int(self.limit):
            raise RequestError(f"--limit {self.limit:g}: expected a whole number from 1 on, or a share below 1")
        from ckptgrow.evaluate.eval_settings import EvalSettings

        return EvalSettings(batch_size=int(batch) if isinstance(batch, float | int) else "auto", limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class ScoreChoices(Choices):
    """The options of commands whose scores have standard errors by resampling."""

    bootstrap_iters: options.BootstrapOption = None

    def settings(self) -> EvalSettings:
        """The settings of the evaluation; raises RequestError where a value is out of range."""
        found = super().settings()
        return found if self.bootstrap_iters is None else replace(found, bootstrap_iters=self.bootstrap_iters)


@dataclass(frozen=True, kw_only=True)
class TaskChoices(ScoreChoices):
    """The options of commands that take any of lm-eval's tasks."""

    data: options.TaskDataOption = None
    include_path: options.IncludeOption = None
    num_fewshot: options.FewshotOption = None

    def settings(self) -> EvalSettings:
        """The settings of the evaluation; raises RequestError where a value is out of range."""
        return replace(super().settings(), num_fewshot=self.num_fewshot)


@dataclass(frozen=True, kw_only=True)
class Session:
    """One running command: its processes, options and screen."""

    processes: EvalProcesses
    choices: Choices
    settings: EvalSettings
    screen: Screen
    begun: float  # seconds, by time.monotonic

    @property
    def progress(self) -> Progress:
        """Makes progress bars; only the first process shows them."""
        from ckptgrow.evaluate.progress_bars import silent

        if not self.processes.is_first:
            return silent
        return lambda description: self.screen.progress_later(description, unit="answers")

    def open(self, checkpoint: Path, *data: Path) -> Subject:
        """Opens a checkpoint as a model with its tokenizer, which a meta.json beside `data` may name."""
        from ckptgrow.evaluate.subject import Taken, open_subject

        with self.screen.stages() as stage:
            stage(f"loading {checkpoint.name}")
            return open_subject(
                checkpoint,
                tokenizer=self.choices.tokenizer,
                dtype=self.choices.dtype,
                device=self.processes.device,
                taken=Taken(self.choices.config, self.choices.averaged, self.choices.dialect),
                others=data,
            )

    def load(self, names: str, local: Mapping[str, Path], include: Sequence[Path] = ()) -> Loaded:
        """Loads lm-eval's tasks by names, which commas separate; raises RequestError where none is named."""
        from ckptgrow.evaluate.dependency import require_harness

        require_harness()
        from ckptgrow.evaluate.tasks import load_tasks

        wanted = words_by_commas(names)
        if not wanted:
            raise RequestError("--tasks: names none, expected some of lm-eval's tasks, by commas")
        with self.screen.stages() as stage:
            stage("loading tasks")
            return load_tasks(wanted, local, include)

    def run(self, checkpoint: Path, loaded: Loaded) -> Evaluation | None:
        """Evaluates one checkpoint by lm-eval; None in all processes but the first."""
        from ckptgrow.evaluate.evaluation import evaluate

        return evaluate(self.open(checkpoint), loaded, self.settings, self.processes, self.progress)

    def show(self, evaluation: Evaluation | None) -> None:
        """Shows the table, samples and JSON of one evaluation in the first process, and on stderr how long it took."""
        if evaluation is None:
            return
        self.write_samples([evaluation])
        self.screen.table(f"{evaluation.checkpoint} ({evaluation.tokenizer})", COLUMNS, list(_rows(evaluation)))
        self.tell(evaluation.notes)
        num, seconds = sum(evaluation.num_samples.values()), time.monotonic() - self.begun
        typer.echo(
            f"{evaluation.checkpoint}: {num:,} documents in {seconds:.1f} s, {self.choices.dtype} on "
            f"{self.processes.device}",
            err=True,
        )
        self.screen.result(evaluation.to_json())

    def tell(self, notes: Sequence[str]) -> None:
        """Shows notes on the data."""
        for note in notes:
            self.screen.say(f"note: {note}")

    def write_samples(self, evaluations: Sequence[Evaluation]) -> None:
        """Writes the answers for every document to the file of --samples, if it is given."""
        from ckptgrow.evaluate.evaluation import write_samples

        if self.choices.samples is not None:
            write_samples(evaluations, self.choices.samples)


COLUMNS = ("task", "metric", "value", "standard error", "documents")


@contextmanager
def session(choices: Choices, as_json: bool, *checkpoints: Path) -> Generator[Session]:
    """A command's session, after all that can be checked beforehand."""
    settings = choices.settings()
    from ckptgrow.evaluate.evaluation import check_samples
    from ckptgrow.evaluate.processes import launched

    for checkpoint in checkpoints:
        check_samples(choices.samples, checkpoint, force=choices.force)
    with launched(choices.device) as processes:
        yield Session(
            processes=processes, choices=choices, settings=settings, screen=Screen(as_json), begun=time.monotonic()
        )


def _rows(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    from ckptgrow.evaluate.evaluation import metric_name

    for task, scores in evaluation.results.items():
        for key, value in scores.items():
            if "," not in key or "_stderr," in key:
                continue
            error = scores.get(key.replace(",", "_stderr,", 1))
            known = error if isinstance(error, float) and not math.isnan(error) else None
            yield task, metric_name(key), value, known, evaluation.num_samples.get(task)
