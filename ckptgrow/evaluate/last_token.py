"""The staged-training script's LAMBADA: whether a passage's last token is the most probable one.

Source: allenai/staged-training, eval_lambada.py. It counts the last *token*, where lm-eval counts the last word.
The tokens are those of the passage alone, without the tokenizer's begin and end tokens, as in lm-eval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ckptgrow.data.documents import Document, DocumentPlace
from ckptgrow.data.tokenizers import encoded
from ckptgrow.errors import DataError
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import Evaluation
from ckptgrow.evaluate.files import Text
from ckptgrow.evaluate.processes import EvalProcesses
from ckptgrow.evaluate.progress_bars import Progress, silent
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.task_documents import Documents

TASK = "lambada_original"
QUOTES = (("“", '"'), ("”", '"'), ("''", '"'), ("``", '"'))


@dataclass(frozen=True)
class Reading:
    """How the script reads a passage, by its three options (preprocess, jeff_suggestion, ignore-fragments)."""

    plain_quotes: bool = False  # typographic and doubled quotes become "
    leading_newline: bool = False
    ignore_fragments: bool = False  # leave out passages whose last token is not their whole last word


@dataclass(frozen=True)
class _Passage:
    tokens: list[int]
    line: int
    last_word: str
    is_cut: bool


def last_token_accuracy(
    subject: Subject,
    documents: Documents,
    reading: Reading,
    settings: EvalSettings,
    processes: EvalProcesses,
    progress: Progress = silent,
) -> Evaluation | None:
    """The share of passages whose last token has the largest logit; None in all processes but the first.

    Raises DataError for a passage of a single token, which nothing predicts, and where no passage is left.
    """
    texts = settings.limited(documents.texts)
    passages = [_encoded(text, documents.where, reading, subject) for text in texts]
    kept = [one for one in passages if not (reading.ignore_fragments and _is_fragment(one, subject))]
    if not kept:
        raise DataError(
            f"{documents.where}: all {len(passages)} passages end in a fragment of a word, expected one that does not"
        )
    mine = [kept[index] for index in processes.share(len(kept))]
    size = settings.batch_of(subject)
    samples: list[tuple[int, int, int]] = []
    with progress(f"evaluating {subject.path.name}") as start:
        advance = start(len(mine))
        for begin in range(0, len(mine), size):
            batch = mine[begin : begin + size]
            for passage, predicted in zip(batch, _predictions(subject, batch), strict=True):
                samples.append((passage.line, passage.tokens[-1], predicted))
            advance(len(batch))
    gathered = sorted(sample for part in processes.gather(samples) for sample in part)
    if not processes.is_first:
        return None
    return _evaluation(subject, documents, gathered, len(passages), sum(one.is_cut for one in kept))


def _encoded(text: Text, where: str, reading: Reading, subject: Subject) -> _Passage:
    passage = text.text.strip()
    if reading.plain_quotes:
        for old, new in QUOTES:
            passage = passage.replace(old, new)
    whole = Document(("\n" if reading.leading_newline else "") + passage, DocumentPlace(Path(where), number=text.line))
    tokens: list[int] = encoded(subject.encoder, [whole])[0].tolist()
    if len(tokens) < 2:
        raise DataError(f"{where}: line {text.line}: is a single token, expected one before it that it follows from")
    longest = (subject.max_length or len(tokens)) + 1  # the last token is predicted, not read
    return _Passage(tokens[-longest:], text.line, passage.split()[-1], len(tokens) > longest)


def _is_fragment(passage: _Passage, subject: Subject) -> bool:
    """Whether the last token is only a part of the last word."""
    return str(subject.tokenizer.decode(passage.tokens[-1:])).strip() != passage.last_word


@torch.no_grad()
def _predictions(subject: Subject, batch: list[_Passage]) -> list[int]:
    longest = max(len(one.tokens) for one in batch) - 1
    inputs = [one.tokens[:-1] + [0] * (longest + 1 - len(one.tokens)) for one in batch]  # padded on the right
    logits = subject.model(input_ids=torch.tensor(inputs, device=subject.model.device)).logits
    return [int(row[len(one.tokens) - 2].argmax()) for row, one in zip(logits, batch, strict=True)]


def _evaluation(
    subject: Subject, documents: Documents, samples: list[tuple[int, int, int]], num_read: int, num_cut: int
) -> Evaluation:
    num = len(samples)
    accuracy = sum(observed == predicted for _, observed, predicted in samples) / num
    error = math.sqrt(accuracy * (1 - accuracy) / (num - 1)) if num > 1 else math.nan
    notes = list(documents.notes)
    if num < num_read:
        notes.append(f"{num_read - num} of {num_read} passages end in a fragment of a word, left out")
    if num_cut:
        notes.append(f"{num_cut} passage(s) longer than the context, cut on the left")
    records = [
        {"doc_id": line, "target": observed, "predicted": predicted, "acc": int(observed == predicted)}
        for line, observed, predicted in samples
    ]
    scores = {"alias": TASK, "acc,none": accuracy, "acc_stderr,none": error, "sample_len": num}
    return Evaluation(
        checkpoint=subject.path,
        tokenizer=subject.tokenizer_name,
        results={TASK: scores},
        num_samples={TASK: num},
        samples={TASK: records},
        notes=tuple(notes),
    )
