"""Loss and perplexity per token, over blocks of a text or a memory-mapped file of tokens.

Source of `script_blocks` and `framed_blocks`: allenai/staged-training, eval_wikitext.py and tools/.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ckptgrow.data.documents import Remarks
from ckptgrow.errors import DataError, RequestError
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import Evaluation
from ckptgrow.evaluate.processes import EvalProcesses
from ckptgrow.evaluate.progress_bars import Progress, silent
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.tokens import Tokens, is_memory_mapped, map_tokens, text_tokens

PERPLEXITY = "perplexity"  # what the command and the task are called
ROWS_TOGETHER = 1000  # rows that `datasets.map` hands over at once: blocks do not cross them


@dataclass(frozen=True)
class Blocks:
    """Blocks of tokens; in each, every token but the first is predicted from those before it."""

    source: Sequence[Tokens]
    spans: tuple[tuple[int, int, int], ...]  # which source, from where, to where
    before: tuple[int, ...] = ()  # tokens put before and after every block
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> np.ndarray:
        which, begin, end = self.spans[index]
        inner = np.asarray(self.source[which][begin:end], dtype=np.int64)
        return np.concatenate([np.array(self.before, np.int64), inner, np.array(self.after, np.int64)])


def every_token(tokens: Tokens, block_size: int) -> Blocks:
    """Blocks that share one token with the next, so that each token but the very first is predicted once."""
    stops = range(0, len(tokens) - 1, block_size)
    return Blocks((tokens,), tuple((0, begin, min(begin + block_size + 1, len(tokens))) for begin in stops))


def script_blocks(rows: Sequence[Sequence[int]], block_size: int) -> Blocks:
    """The script's blocks: every thousand rows are joined and cut, and the rest is dropped.

    A thousand rows that do not fill a block make one shorter block.
    """
    groups: list[Tokens] = []
    spans: list[tuple[int, int, int]] = []
    for first in range(0, len(rows), ROWS_TOGETHER):
        joined = np.array([token for row in rows[first : first + ROWS_TOGETHER] for token in row], dtype=np.int64)
        length = len(joined) - len(joined) % block_size if len(joined) >= block_size else len(joined)
        cuts = [(len(groups), cut, min(cut + block_size, length)) for cut in range(0, length, block_size)]
        spans += [span for span in cuts if span[2] - span[1] > 1]
        groups.append(joined)
    return Blocks(tuple(groups), tuple(spans))


def framed_blocks(tokens: Tokens, block_size: int, begin: int, end: int) -> Blocks:
    """The script's blocks of memory-mapped files: `block_size` − 2 tokens between a begin and an end token."""
    inner = block_size - 2
    spans = tuple((0, cut * inner, (cut + 1) * inner) for cut in range(len(tokens) // inner))
    return Blocks((tokens,), spans, (begin,), (end,))


def file_loss(
    task: str,
    file: Path,
    subject: Subject,
    settings: EvalSettings,
    processes: EvalProcesses,
    progress: Progress = silent,
) -> Evaluation | None:
    """Loss by token of a text, JSON lines, parquet or `.bin` of tokens; None in all processes but the first."""
    size = checked_block_size(settings.block_size, subject)
    remarks = Remarks()
    tokens = map_tokens(file) if is_memory_mapped(file) else text_tokens(file, subject, remarks)
    found = block_loss(task, subject, every_token(tokens, size), settings, processes, progress)
    return None if found is None else replace(found, notes=remarks.notes())


def block_loss(
    task: str,
    subject: Subject,
    blocks: Blocks,
    settings: EvalSettings,
    processes: EvalProcesses,
    progress: Progress = silent,
) -> Evaluation | None:
    """The mean cross-entropy in nats per predicted token, and perplexity; None in all processes but the first.

    Standard errors treat blocks as independent. Raises DataError where there is nothing to predict, or where a token is
    outside of the model's vocabulary.
    """
    num = len(settings.limited(range(len(blocks))))
    if num == 0:
        raise DataError(f"{task}: there are not enough tokens for one block, expected at least two tokens")
    mine = processes.share(num)
    size = settings.batch_of(subject)
    losses: list[tuple[int, float, int]] = []
    with progress(f"evaluating {subject.path.name}") as start:
        advance = start(len(mine))
        for begin in range(0, len(mine), size):
            batch = mine[begin : begin + size]
            losses += zip(batch, *_scored(task, subject, [blocks[index] for index in batch]), strict=True)
            advance(len(batch))
    gathered = sorted(one for part in processes.gather(losses) for one in part)
    return _evaluation(task, subject, gathered) if processes.is_first else None


def checked_block_size(block_size: int | None, subject: Subject, extra: int = 0) -> int:
    """The block size, by default the model's context.

    Raises RequestError for blocks that are more than `extra` tokens longer than the context.
    """
    longest = subject.max_length
    if block_size is None:
        return longest or 1024  # the script's default
    if longest is not None and block_size > longest + extra:
        raise RequestError(f"⟦block_size {block_size}⟧: the model has {longest} positions, expected at most as many")
    return block_size


@torch.no_grad()
def _scored(task: str, subject: Subject, batch: Sequence[np.ndarray]) -> tuple[list[float], list[int]]:
    """Summed cross-entropy (nats) and the number of predicted tokens of each block."""
    largest = max(int(block.max()) for block in batch)
    if largest >= subject.num_embeddings:
        raise DataError(
            f"{task}: token {largest}, expected ids below the model's {subject.num_embeddings}; "
            "pass data made with the model's tokenizer"
        )
    longest = max(len(block) for block in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, block in zip(tokens, batch, strict=True):
        row[: len(block)] = torch.from_numpy(block)
    tokens = tokens.to(subject.model.device)
    logits = subject.model(input_ids=tokens[:, :-1]).logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    lost = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return (
        [float(row[: len(block) - 1].double().sum()) for row, block in zip(lost, batch, strict=True)],
        [len(block) - 1 for block in batch],
    )


def _evaluation(task: str, subject: Subject, losses: Sequence[tuple[int, float, int]]) -> Evaluation:
    num_tokens = sum(count for _, _, count in losses)
    loss = sum(lost for _, lost, _ in losses) / num_tokens
    error = _standard_error(loss, losses, num_tokens)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    scores = {
        "alias": task,
        "loss,none": loss,
        "loss_stderr,none": error,
        "perplexity,none": perplexity,
        "perplexity_stderr,none": perplexity * error,
        "num_tokens": num_tokens,
        "sample_len": len(losses),
    }
    records = [{"doc_id": index, "loss_sum": lost, "num_tokens": count} for index, lost, count in losses]
    return Evaluation(
        checkpoint=subject.path,
        tokenizer=subject.tokenizer_name,
        results={task: scores},
        num_samples={task: len(losses)},
        samples={task: records},
    )


def _standard_error(loss: float, losses: Sequence[tuple[int, float, int]], num_tokens: int) -> float:
    """The standard error of a ratio of sums over blocks, linearised.

    Source: Cochran, Sampling Techniques, 1977, section 6.4.
    """
    num = len(losses)
    if num < 2:
        return math.nan
    squares = sum((lost - loss * count) ** 2 for _, lost, count in losses)
    return math.sqrt(num / (num - 1) * squares) / num_tokens
