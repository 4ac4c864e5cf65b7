"""One checkpoint's scores on lm-eval's tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ckptgrow.errors import RequestError, listing
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.processes import EvalProcesses
from ckptgrow.evaluate.progress_bars import Progress, silent
from ckptgrow.evaluate.quiet import quiet
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.tasks import Loaded
from ckptgrow.storage.files.atomic import appearing
from ckptgrow.storage.files.file_signs import SAMPLE_LINES
from ckptgrow.storage.files.targets import check_target


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of one checkpoint, by task, in lm-eval's own form ("acc,none", "acc_stderr,none")."""

    checkpoint: Path
    tokenizer: str
    results: Mapping[str, Mapping[str, Any]]
    num_samples: Mapping[str, int]
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()

    def with_others(self, other: Evaluation) -> Evaluation:
        """The same checkpoint's scores on further tasks beside these."""
        return Evaluation(
            checkpoint=self.checkpoint,
            tokenizer=self.tokenizer,
            results={**self.results, **other.results},
            num_samples={**self.num_samples, **other.num_samples},
            samples={**self.samples, **other.samples},
            notes=(*self.notes, *other.notes),
        )

    def to_json(self) -> Mapping[str, object]:
        """The scores as plain values."""
        return {
            "checkpoint": str(self.checkpoint),
            "tokenizer": self.tokenizer,
            "results": self.results,
            "num_samples": self.num_samples,
            "notes": list(self.notes),
        }


def evaluate(
    subject: Subject, loaded: Loaded, settings: EvalSettings, processes: EvalProcesses, progress: Progress = silent
) -> Evaluation | None:
    """lm-eval's results for a checkpoint on tasks; None in all processes but the first.

    They equal those of the same weights in lm-eval's own `HFLM` to the last digit. Raises RequestError where memory is
    too small, where there are more processes than documents, and where lm-eval fails.
    """
    from ckptgrow.evaluate.harness import scores
    from ckptgrow.evaluate.language_model import CheckpointLM

    _check(loaded, settings, processes)
    with progress(f"evaluating {subject.path.name}") as start, quiet():
        model = CheckpointLM(subject, settings, processes, start)
        try:
            output = scores(model, loaded, settings)
        except torch.OutOfMemoryError as error:
            raise RequestError(
                f"{subject.path}: out of memory with ⟦batch_size {settings.batch_size}⟧; pass a smaller one"
            ) from error
        except (AssertionError, IndexError, KeyError, NotImplementedError, TypeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RequestError(f"{subject.path}: lm-eval cannot evaluate {listing(loaded.tasks)} ({reason})") from error
    num_truncated = sum(processes.gather(model.num_truncated))
    if output is None:
        return None
    truncated = (
        (f"{num_truncated} request(s) longer than the context of {subject.max_length} tokens, cut on the left",)
        if num_truncated
        else ()
    )
    return Evaluation(
        checkpoint=subject.path,
        tokenizer=subject.tokenizer_name,
        results={**output["results"], **output.get("groups", {})},
        num_samples={task: counts["effective"] for task, counts in output["n-samples"].items()},
        samples={task: sorted(samples, key=lambda one: one["doc_id"]) for task, samples in output["samples"].items()},
        notes=(*loaded.notes, *truncated),
    )


def metric_name(key: str) -> str:
    """lm-eval's "metric,filter" as people read it, without the filter `none`."""
    return key.removesuffix(",none").replace(",", ", ")


def write_samples(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Writes lm-eval's samples as JSON lines, each with its task and checkpoint."""
    with appearing(path) as partial, partial.open("w", encoding="utf-8") as out:
        for one in evaluations:
            for task, samples in one.samples.items():
                for sample in samples:
                    record = {"checkpoint": str(one.checkpoint), "task": task, **sample}
                    out.write(json.dumps(record, default=str, ensure_ascii=False) + "\n")


def check_samples(path: Path | None, checkpoint: Path, *, force: bool) -> None:
    """Raises RequestError where samples could not be written to `path` later."""
    if path is not None:
        check_target(checkpoint, path, force=force, kind=SAMPLE_LINES)


def _check(loaded: Loaded, settings: EvalSettings, processes: EvalProcesses) -> None:
    for name, task in loaded.tasks.items():
        length = len(task.eval_docs)
        wanted = len(settings.limited(range(length)))
        if wanted < processes.world_size:
            raise RequestError(f"{name}: {wanted} documents for {processes.world_size} processes; launch fewer")
