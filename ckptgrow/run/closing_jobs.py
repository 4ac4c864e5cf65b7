"""At a stage's end: its evaluation, and what of its checkpoints stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptgrow.data.directories import directories_in
from ckptgrow.recipes.command_words import words_of_command
from ckptgrow.recipes.recipe_options import OPERATORS
from ckptgrow.run.staged_plan import Evaluations, PlannedStage
from ckptgrow.run.work import Listener, Work
from ckptgrow.train.run_directory import CHECKPOINTS, LAST

VALIDATION = "val"


@dataclass(frozen=True)
class EvaluateJob:
    """Scores a stage's last checkpoint."""

    stage: PlannedStage
    asked: Evaluations

    @property
    def name(self) -> str:
        """In the journal."""
        return f"{self.stage.name}/evaluate"

    def words(self, work: Work) -> list[list[str]]:
        """The commands by hand."""
        asked, checkpoint = self.asked, work.last(self.stage)
        common = {"tokenizer": asked.tokenizer, "limit": asked.limit}
        if asked.batch_size != "auto":
            common["batch_size"] = asked.batch_size
        found = [
            words_of_command("eval perplexity", [checkpoint, file], common)
            for name in asked.perplexity
            for file in _files(work, name)
        ]
        if asked.tasks:
            options = {"tasks": asked.tasks, "num_fewshot": asked.num_fewshot, **common}
            data = [word for task, file in asked.data.items() for word in ("--data", f"{task}={file}")]
            found.append([*words_of_command("eval run", [checkpoint], options), *data])
        return found

    def run(self, work: Work, listener: Listener) -> dict[str, Any]:
        """The scores by task, in lm-eval's form."""
        from ckptgrow.evaluate.eval_settings import EvalSettings
        from ckptgrow.evaluate.processes import launched
        from ckptgrow.evaluate.subject import open_subject

        asked = self.asked
        settings = EvalSettings(batch_size=asked.batch_size, limit=asked.limit, num_fewshot=asked.num_fewshot)
        with launched("auto") as processes:
            listener.stage(f"loading {work.last(self.stage)}")
            subject = open_subject(
                work.last(self.stage),
                tokenizer=asked.tokenizer,
                dtype="float32",
                device=processes.device,
                others=_files(work, VALIDATION),
            )
            results: dict[str, Any] = {}
            for one in self._evaluations(work, subject, settings, processes):
                results |= one.results
        return {"results": {task: _scores(scores) for task, scores in results.items()}}

    def _evaluations(self, work: Work, subject: Any, settings: Any, processes: Any) -> Iterator[Any]:
        from ckptgrow.data.documents import Remarks
        from ckptgrow.evaluate import blocks
        from ckptgrow.evaluate.tokens import is_memory_mapped, map_tokens, text_tokens

        for file in (one for name in self.asked.perplexity for one in _files(work, name)):
            tokens = map_tokens(file) if is_memory_mapped(file) else text_tokens(file, subject, Remarks())
            cut = blocks.every_token(tokens, blocks.checked_block_size(None, subject))
            name = file.name if len(directories_in(work.data)) == 1 else str(file)  # sources' files have one name
            yield blocks.block_loss(name, subject, cut, settings, processes)
        if self.asked.tasks:
            from ckptgrow.evaluate.dependency import require_harness

            require_harness()
            from ckptgrow.evaluate.evaluation import evaluate
            from ckptgrow.evaluate.tasks import load_tasks

            local = {task: Path(file) for task, file in self.asked.data.items()}
            yield evaluate(subject, load_tasks(self.asked.tasks, local), settings, processes)


def _files(work: Work, name: str) -> list[Path]:
    """A file, or the validation tokens of every source of the run's data."""
    if name != VALIDATION:
        return [Path(name)]
    return [directory / "val.bin" for directory, _ in directories_in(work.data)]


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class TidyJob:
    """Removes the checkpoints that the plan does not keep, once a stage is trained."""

    number: int
    stage: PlannedStage

    @property
    def name(self) -> str:
        """In the journal."""
        return f"{self.stage.name}/tidy"

    def words(self, work: Work) -> list[list[str]]:
        """The commands by hand."""
        done = work.journal.result(self.name)
        gone = self._unneeded(work) if done is None else done["removed"]
        return [["rm", "-r", *map(str, gone)]] if gone else []

    def run(self, work: Work, listener: Listener) -> dict[str, Any]:
        """Removes them; what is gone already stays gone."""
        removed = [str(one) for one in self._unneeded(work)]
        for one in map(Path, removed):
            if one.is_dir():
                shutil.rmtree(one)
            else:
                one.unlink(missing_ok=True)
        return {"removed": removed}

    def _unneeded(self, work: Work) -> list[Path]:
        """Grown checkpoints that the stage has its own of by now; all but its last; the stage before's."""
        operators = () if self.stage.operator is None else OPERATORS[self.stage.operator]
        found = [work.grown(self.stage, one) for one in operators]
        own = (work.directory(self.stage) / CHECKPOINTS).glob("*.ckpt")
        found += [one for one in sorted(own) if one.name != LAST]
        if work.plan.keep == "newest" and self.number:
            found.append(work.directory(work.plan.stages[self.number - 1]) / CHECKPOINTS)
        return [one for one in found if one.exists()]
