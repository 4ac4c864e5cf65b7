"""lm-eval's own language model with a loaded checkpoint: it can be shared by processes, and reports its progress."""

# lm-eval's registry hides the type of the classes that it registers:
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from torch import distributed

from ckptgrow.errors import DataError
from ckptgrow.evaluate.eval_settings import MAX_BATCH_SIZE, EvalSettings
from ckptgrow.evaluate.processes import EvalProcesses
from ckptgrow.evaluate.progress_bars import Advance, Start
from ckptgrow.evaluate.subject import Subject

Request = tuple[tuple[str, str] | None, list[int], list[int]]  # what stands there, its context's tokens, those to score


class CheckpointLM(HFLM):
    """`HFLM` with a model that is loaded already; for such models it leaves the distribution over processes to us."""

    def __init__(self, subject: Subject, settings: EvalSettings, processes: EvalProcesses, start: Start) -> None:
        self._processes = processes
        self._start = start
        self._where, self._num_embeddings = subject.path, subject.num_embeddings
        super().__init__(
            pretrained=subject.model,  # pyright: ignore[reportArgumentType]  annotated as if of one class
            tokenizer=subject.tokenizer,  # pyright: ignore[reportArgumentType]
            backend="causal",
            batch_size=settings.harness_batch(subject, processes),
            max_batch_size=MAX_BATCH_SIZE,
        )
        self.num_truncated = 0  # requests longer than the context: lm-eval cuts them on the left
        self._instances: Sequence[Instance] = ()
        self._count_windows: Advance | None = None
        self._num_expected = 0

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self._processes.rank

    @property
    def world_size(self) -> int:
        """The number of processes that share the documents."""
        return self._processes.world_size

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, one after the other."""
        if self.world_size == 1:
            return tensor
        pieces = [torch.zeros_like(tensor) for _ in range(self.world_size)]
        distributed.all_gather(pieces, tensor)
        return torch.cat([torch.atleast_1d(piece) for piece in pieces])

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any]:
        """The objects of all processes, in every process."""
        return self._processes.gather(obj)

    def barrier(self) -> None:
        """Waits for all processes."""
        self._processes.gather(None)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Answers as lm-eval's model does; every answer advances the bar."""
        self._instances = requests
        self.set_cache_hook(_Answered(self._expect(len(requests))))
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Answers as lm-eval's model does; every window advances the bar."""
        lengths = [len(self.tok_encode(*request.args)) for request in requests]
        self._count_windows = self._expect(sum(-(-length // self.max_length) for length in lengths))
        self.set_cache_hook(CacheHook(None))
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        finally:
            self._count_windows = None

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Answers as lm-eval's model does; every answer advances the bar."""
        self.set_cache_hook(_Answered(self._expect(len(requests))))
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _expect(self, number: int) -> Advance:
        """Adds `number` answers to the bar's total; returns the function that advances it."""
        self._num_expected += number
        return self._start(self._num_expected)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if self._count_windows is None:
            self._check(requests)
        self._check_known(requests)
        answers = super()._loglikelihood_tokens(
            list(requests),  # pyright: ignore[reportArgumentType]  windows have no text, against its annotation
            disable_tqdm=True,
            override_bs=override_bs,
        )
        if self._count_windows is not None:
            self._count_windows(len(requests))
        return answers

    def _check(self, requests: Sequence[Request]) -> None:
        """Counts requests that lm-eval will cut; raises DataError where its assertions would fail."""
        for (_, context, scored), instance in zip(requests, self._instances, strict=True):
            if not 0 < len(scored) <= self.max_length:
                where = f"{instance.task_name}: {_place(instance)}"
                raise DataError(
                    f"{where}: {len(scored)} tokens to score, expected 1 to {self.max_length}, the model's context"
                )
            self.num_truncated += len(context) + len(scored) > self.max_length + 1

    def _check_known(self, requests: Sequence[Request]) -> None:
        """Raises DataError where the tokenizer gives ids for which the model has no embeddings."""
        largest = max((max(part) for _, *parts in requests for part in parts if part), default=0)
        if largest >= self._num_embeddings:
            raise DataError(
                f"{self._where}: the tokenizer gives token {largest}, expected ids below the model's "
                f"{self._num_embeddings}; pass the tokenizer that it was trained with"
            )


class _Answered(CacheHook):
    """A cache for lm-eval, which only counts: lm-eval adds every answer to its cache at once."""

    def __init__(self, advance: Advance) -> None:
        super().__init__(None)
        self._advance = advance

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Counts one more answer."""
        self._advance(1)


def _place(instance: Instance) -> str:
    line = instance.doc.get("line")
    return f"document {instance.doc_id}" if line is None else f"line {line}"
