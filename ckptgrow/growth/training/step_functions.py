"""The functions of LambdaLRs, which torch does not store: from fields that some leave in the state, or by name.

ckptgrow train      stores all fields of its functions in the state
transformers        `get_scheduler` stores nothing; the user names the function: cosine:warmup=100,total=5000
scripts             "lambda": a function of the step alone, which the script computes again at its first step
in memory           the functions themselves stand in the state
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from ckptgrow.errors import RequestError, listing
from ckptgrow.state.train_schedule import Schedule

Function = Callable[[int], float]

LAMBDA = "lambda"
NAMES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
)
EXAMPLE = "⟦schedule cosine:warmup=100,total=5000⟧"


@dataclass(frozen=True)
class Course:
    """The function of a LambdaLR as the user names it: a name of transformers with its options, or "lambda"."""

    name: str
    options: Mapping[str, float]

    def function(self, peak: float) -> Function | None:
        """The function; None for "lambda", which only the script has.

        `peak`: the peak learning rate, which functions with an absolute last rate need. Raises RequestError for options
        that the name does not take.
        """
        if self.name == LAMBDA:
            return None
        from transformers import get_scheduler

        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
        options = dict(self.options)
        warmup, total = options.pop("warmup", None), options.pop("total", None)
        try:
            scheduler = get_scheduler(
                self.name,
                optimizer,
                None if warmup is None else int(warmup),
                None if total is None else int(total),
                {key: int(value) if key.endswith("steps") else value for key, value in options.items()},
            )
        except (TypeError, ValueError) as error:
            raise RequestError(f"⟦schedule {self.name}⟧: {error}; expected its options as in {EXAMPLE}") from error
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        return scheduler.lr_lambdas[0]


def course(text: str) -> Course | None:
    """Reads `NAME` or `NAME:key=number,…`; None for an empty text. Raises RequestError for anything else."""
    if not text:
        return None
    name, _, rest = text.partition(":")
    if name != LAMBDA and name not in NAMES:
        raise RequestError(f"⟦schedule {text}⟧: expected {listing((LAMBDA, *NAMES), limit=20)}, as {EXAMPLE}")
    options: dict[str, float] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        try:
            options[key.strip()] = float(value)
        except ValueError as error:
            raise RequestError(f"⟦schedule {text}⟧: {part} is not key=number, expected {EXAMPLE}") from error
    return Course(name, options)


def recorded_functions(saved: Any) -> list[Function] | None:
    """The functions that training with ckptgrow stored in a state's `lr_lambdas`, or those of a scheduler in memory,
    which stand in it themselves; None where others stored what they are made of.
    """
    if isinstance(saved, list) and all(map(callable, saved)):
        return saved
    names = {field.name for field in fields(Schedule)}
    if not isinstance(saved, list) or not all(isinstance(one, Mapping) and set(one) == names for one in saved):
        return None
    return [Schedule(**one) for one in saved]
