"""Several checkpoints' scores side by side: differences from the first, and their standard errors, paired by sample.

Standard errors of differences are jackknife ones: the metric's own aggregation is computed without each sample in turn,
for both checkpoints, so that whatever the samples have in common cancels. For a mean this is the usual paired standard
error.

Source: Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from ckptgrow.evaluate.blocks import PERPLEXITY
from ckptgrow.evaluate.evaluation import Evaluation
from ckptgrow.evaluate.tasks import Loaded

NORMAL_95 = 1.959964  # standard errors on either side of 95 %
MAX_LEFT_OUT = 500  # more samples than that are left out in as many equal parts
Aggregation = Callable[[Sequence[Any]], float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of one task: the values of all checkpoints, and the differences of the others from the first."""

    task: str
    metric: str
    values: tuple[float, ...]
    differences: tuple[float, ...]  # one fewer than the values
    standard_errors: tuple[float | None, ...]  # None where lm-eval gives no samples or the metric is not per sample

    @property
    def largest_relative(self) -> float:
        """The largest difference, relative to the first value (absolute where that is 0)."""
        scale = abs(self.values[0]) or 1.0
        return max(abs(one) / scale for one in self.differences)

    @property
    def is_seen(self) -> bool | None:
        """Whether some difference is larger than chance, of 95 %, lets it be; None where no error is known."""
        pairs = [(one, error) for one, error in zip(self.differences, self.standard_errors, strict=True) if error]
        return any(abs(one) > NORMAL_95 * error for one, error in pairs) if pairs else None


@dataclass(frozen=True)
class Comparison:
    """Evaluations of several checkpoints on the same tasks; all are compared with the first."""

    evaluations: tuple[Evaluation, ...]
    rows: tuple[Difference, ...]

    def exceeding(self, tolerance: float) -> list[Difference]:
        """The metrics in which some checkpoint differs relatively by more than `tolerance`, or is not a number."""
        return [row for row in self.rows if not row.largest_relative <= tolerance]

    def to_json(self) -> Mapping[str, object]:
        """The comparison as plain values."""
        return {
            "checkpoints": [str(one.checkpoint) for one in self.evaluations],
            "results": [one.results for one in self.evaluations],
            "differences": [
                {
                    "task": row.task,
                    "metric": row.metric,
                    "values": list(row.values),
                    "differences": list(row.differences),
                    "standard_errors": list(row.standard_errors),
                }
                for row in self.rows
            ],
            "notes": list(dict.fromkeys(note for one in self.evaluations for note in one.notes)),
        }


def compare(evaluations: Sequence[Evaluation], loaded: Loaded | None) -> Comparison:
    """Compares evaluations on the same tasks, metric by metric, with the first; `loaded` are lm-eval's among these."""
    first, *others = evaluations
    rows: list[Difference] = []
    for task, scores in first.results.items():
        for metric, value in scores.items():
            if not _is_score(metric, value):
                continue
            values = tuple(float(one.results[task][metric]) for one in evaluations)
            errors = tuple(_paired_error(loaded, task, metric, first, other) for other in others)
            rows.append(
                Difference(
                    task=task,
                    metric=metric,
                    values=values,
                    differences=tuple(one - values[0] for one in values[1:]),
                    standard_errors=errors,
                )
            )
    return Comparison(tuple(evaluations), tuple(rows))


def paired_standard_error(first: Sequence[Any], second: Sequence[Any], aggregate: Aggregation) -> float:
    """The jackknife standard error of `aggregate(second) - aggregate(first)`; the samples are paired by position."""
    num = len(first)
    parts = min(num, MAX_LEFT_OUT)
    cuts = [num * part // parts for part in range(parts + 1)]
    differences = [
        aggregate([*second[:begin], *second[end:]]) - aggregate([*first[:begin], *first[end:]])
        for begin, end in pairwise(cuts)
    ]
    mean = sum(differences) / parts
    return math.sqrt((parts - 1) / parts * sum((one - mean) ** 2 for one in differences))


def _is_score(metric: str, value: object) -> bool:
    return "," in metric and "_stderr," not in metric and isinstance(value, int | float)


def _paired_error(loaded: Loaded | None, task: str, key: str, first: Evaluation, other: Evaluation) -> float | None:
    metric, filtered = key.split(",", 1)
    if task == PERPLEXITY:
        aggregate, values_of = BY_TOKEN.get(metric), _loss_and_number
    else:
        known = {} if loaded is None or task not in loaded.tasks else loaded.tasks[task].aggregation()
        aggregate, values_of = known.get(metric), partial(_value, metric, filtered)
    pair = [
        {one["doc_id"]: value for one in evaluation.samples.get(task, ()) if (value := values_of(one)) is not None}
        for evaluation in (first, other)
    ]
    if aggregate is None or pair[0].keys() != pair[1].keys() or len(pair[0]) < 2:
        return None
    order = sorted(pair[0])
    return paired_standard_error([pair[0][one] for one in order], [pair[1][one] for one in order], aggregate)


def _value(metric: str, filtered: str, sample: Mapping[str, Any]) -> Any:
    return sample[metric] if metric in sample and sample["filter"] == filtered else None


def _loss_and_number(sample: Mapping[str, Any]) -> tuple[float, int]:
    return sample["loss_sum"], sample["num_tokens"]


def _mean_loss(blocks: Sequence[tuple[float, int]]) -> float:
    """In nats a token, of blocks' summed losses and numbers of tokens."""
    return sum(lost for lost, _ in blocks) / sum(num for _, num in blocks)


BY_TOKEN: Mapping[str, Aggregation] = {
    "loss": _mean_loss,
    "perplexity": lambda blocks: math.exp(_mean_loss(blocks)),
}
