"""What a run shows of its model besides losses: texts that it writes, and its scores on lm-eval's tasks.

Both lie in the run's directory as JSON lines, one for each text and one for each step's scores. Neither changes the
run: random states are as before, and the time that they take is no part of the tokens a second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from transformers import PreTrainedModel

from ckptgrow.errors import CkptgrowError, RequestError
from ckptgrow.evaluate.dependency import require_harness
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import evaluate, metric_name
from ckptgrow.evaluate.generation import Sampling, check_prompt, generate
from ckptgrow.evaluate.processes import EvalProcesses
from ckptgrow.evaluate.subject import Subject, num_embeddings_of
from ckptgrow.evaluate.tasks import Loaded, load_tasks
from ckptgrow.evaluate.tokenizer import load_tokenizer
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.module import language_model
from ckptgrow.train.settings import TrainSettings
from ckptgrow.train.stopwatch import Stopwatch

TEXTS, SCORES = "samples.jsonl", "evaluations.jsonl"  # in the run's directory
NUM_TOKENS = 64  # of a text, at most
STEP, TOKENS = "step", "tokens"
Tell = Callable[[str], None]


class InterimResults(lightning.Callback):
    """Writes texts after the settings' prompts every `sample_every` steps, and scores their tasks every `eval_every`;
    both after the last step, too.

    A failure while the run trains is told and ends nothing: what can be known beforehand, `interim_results` checks.
    """

    def __init__(
        self, settings: TrainSettings, subject: Subject, loaded: Loaded | None, clock: Stopwatch, tell: Tell
    ) -> None:
        self._settings, self._subject, self._loaded = settings, subject, loaded
        self._clock, self._tell = clock, tell
        self._step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Removes what an interrupted run wrote of steps that this one makes again."""
        self._step = trainer.global_step
        if trainer.is_global_zero:
            for name in (TEXTS, SCORES):
                _keep_until(self._settings.out / name, trainer.global_step)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a step that is due; micro-batches before its last are none."""
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        settings, is_last = self._settings, step == trainer.max_steps
        writes = bool(settings.sample) and (is_last or step % settings.sampled_every == 0)
        scores = self._loaded is not None and (is_last or step % settings.evaluated_every == 0)
        if writes or scores:
            with self._aside(trainer):
                if writes and trainer.is_global_zero:
                    self._write_texts(step, language_model(pl_module).tokens_seen)
                if scores:
                    self._score(trainer, step, language_model(pl_module).tokens_seen)
            trainer.strategy.barrier()

    @contextmanager
    def _aside(self, trainer: lightning.Trainer) -> Generator[None]:
        """The model in evaluation mode and the run's precision; random states and the run's clock as before."""
        model = self._subject.model
        self._clock.pause()
        try:
            with isolate_rng(), trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
                model.eval()
                yield
        finally:
            model.train()
            self._clock.resume()

    def _write_texts(self, step: int, tokens: int) -> None:
        for prompt in self._settings.sample:
            with self._told(step, "writing"):
                (text,) = generate(self._subject, prompt, Sampling(num_tokens=NUM_TOKENS))
                _append(self._settings.out / TEXTS, {STEP: step, TOKENS: tokens, "prompt": prompt, "text": text})
                self._tell(f"step {step:,}: {' '.join((prompt + text).split())}")

    def _score(self, trainer: lightning.Trainer, step: int, tokens: int) -> None:
        assert self._loaded is not None
        processes = EvalProcesses(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)
        settings = EvalSettings(limit=self._settings.eval_limit)
        with self._told(step, "evaluating"):
            found = evaluate(self._subject, self._loaded, settings, processes)
            if found is not None:
                scores = {task: _numbers(values) for task, values in found.results.items()}
                _append(self._settings.out / SCORES, {STEP: step, TOKENS: tokens, "results": scores})
                self._tell(f"step {step:,}: {_in_words(scores)}")

    @contextmanager
    def _told(self, step: int, what: str) -> Generator[None]:
        try:
            yield
        except CkptgrowError as error:
            self._tell(f"step {step:,}: {what} failed ({error}); the training goes on")


def interim_results(
    settings: TrainSettings, data: Mixture, model: torch.nn.Module, clock: Stopwatch, tell: Tell
) -> InterimResults | None:
    """What the settings ask for; None where they ask for nothing.

    Raises RequestError where the data name no tokenizer, where the model's parameters are not whole on each device, for
    a prompt that leaves no room in the model's context, and for tasks that lm-eval does not have.
    """
    asked = {"⟦sample⟧": settings.sample, "⟦eval_tasks⟧": settings.eval_tasks}
    options = [option for option, is_asked in asked.items() if is_asked]
    if not options:
        return None
    if settings.strategy == "fsdp":
        raise RequestError(f"{options[0]}: needs whole parameters, expected ⟦strategy ddp⟧ or auto")
    if data.tokenizer is None:
        raise RequestError(f"{options[0]}: {data.meta} names no tokenizer, expected one; prepare the data with it")
    found = cast(PreTrainedModel, model)
    tokenizer = load_tokenizer(data.tokenizer, str(settings.data), num_embeddings_of(found))
    subject = Subject(settings.out, found, tokenizer, data.tokenizer)
    for prompt in settings.sample:
        check_prompt(subject, prompt, option="sample")
    return InterimResults(settings, subject, _loaded(settings), clock, tell)


def _loaded(settings: TrainSettings) -> Loaded | None:
    if not settings.eval_tasks:
        return None
    require_harness()
    include = () if settings.eval_include is None else (settings.eval_include,)
    return load_tasks(settings.eval_tasks, {}, include)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(one) for name, one in values.items() if isinstance(one, (int, float)) and "," in name}


def _in_words(scores: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{task} {metric_name(name)} {value:.4g}"
        for task, values in scores.items()
        for name, value in values.items()
        if "_stderr," not in name
    )


def _append(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _keep_until(path: Path, step: int) -> None:
    """Keeps the records of steps up to `step`; a line that was cut short goes, too."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    partial.replace(path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)[STEP])
    except ValueError:
        return math.inf
