"""The numbers that options take, written once: the commands compare with them what is typed, before anything heavy is
imported, and the library what it is given.

An option means the same in every command, so that its Python name is enough to find its range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from ckptgrow.errors import RequestError

LARGEST_SIZE, MOST_LAYERS = 2**24, 2**14  # beyond any model; so that nonsense ends in a message
MOST_SPREAD = 1.5  # of a split: the last one at which two shares of any number sum to it to the bit
MOST_NOISE = 64.0  # root mean squares of a matrix
LATEST_SEED = 2**32 - 1  # numpy takes no larger one


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `least` to `most`, both of them included unless `above_least` or `below_most`; whole ones, or any
    that are finite.
    """

    least: float = -math.inf
    most: float = math.inf
    above_least: bool = False
    below_most: bool = False
    is_whole: bool = True

    def holds(self, value: float) -> bool:
        """Whether it is one of them."""
        is_from = value > self.least if self.above_least else value >= self.least
        is_up_to = value < self.most if self.below_most else value <= self.most
        return is_from and is_up_to and math.isfinite(value) and (not self.is_whole or value == int(value))

    @property
    def bounds(self) -> str:
        """The ends in words; empty where there are none.

        >>> Range(least=2).bounds, Range(least=0, most=1, below_most=True).bounds, Range(least=0, most=64).bounds
        ('at least 2', 'at least 0 and below 1', '0 to 64')
        """
        least, most = f"{self.least:.10g}", f"{self.most:.10g}"
        if math.isfinite(self.least) and math.isfinite(self.most) and not self.above_least and not self.below_most:
            return f"{least} to {most}"
        lower = f"above {least}" if self.above_least else f"at least {least}"
        upper = f"below {most}" if self.below_most else f"at most {most}"
        return " and ".join(text for text, end in ((lower, self.least), (upper, self.most)) if math.isfinite(end))

    def expected(self, *words: str) -> str:
        """What is taken, these words among it.

        >>> Range(least=2).expected(), Range(least=0, is_whole=False).expected("auto")
        ('a whole number, at least 2', 'auto or a number, at least 0')
        """
        kind = "a whole number" if self.is_whole else "a number"
        return " or ".join((*words, f"{kind}, {self.bounds}" if self.bounds else kind))


def _whole(least: float, most: float = math.inf) -> Range:
    return Range(least=least, most=most)


def _number(least: float = -math.inf, most: float = math.inf) -> Range:
    return Range(least=least, most=most, is_whole=False)


_ABOVE_ZERO = Range(least=0, above_least=True, is_whole=False)
_DECAY = Range(least=0, most=1, below_most=True, is_whole=False)
_SIZE, _COUNT, _AMOUNT, _SHARE = _whole(1, LARGEST_SIZE), _whole(1), _whole(0), _number(0, 1)

RANGES: Mapping[str, Range] = {
    # growth
    "factor": _whole(2),
    **dict.fromkeys(("ffn", "heads", "kv_heads", "hidden", "size", "pad_to"), _SIZE),
    **dict.fromkeys(("every", "experts", "experts_per_token", "shards"), _COUNT),
    "noise": _number(0, MOST_NOISE),
    "spread": Range(least=0, above_least=True, most=MOST_SPREAD, is_whole=False),
    "router_noise": _number(0),
    "seed": _whole(0, LATEST_SEED),
    "step": _AMOUNT,
    "rewarm": _AMOUNT,
    # verification
    "batches": _COUNT,
    "steps": _AMOUNT,
    "tolerance": _number(0),
    # data
    "train_tokenizer": _whole(257),  # the bytes, and what ends a text
    "val_fraction": _DECAY,
    "workers": _COUNT,
    # training
    **dict.fromkeys(("train_steps", "stop_at", "grad_accum", "devices", "nodes", "tensor_parallel"), _COUNT),
    "batch_size": _COUNT,
    "seqlen": _whole(2),
    "lr": _number(0),
    **dict.fromkeys(("min_lr_ratio", "warmup_share"), _SHARE),
    **dict.fromkeys(("warmup_steps", "warmup_bsz", "warmup_seq", "num_workers", "keep"), _AMOUNT),
    **dict.fromkeys(("weight_decay", "adam_epsilon", "grad_clip", "save_minutes", "eps"), _number(0)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "betas", "ema", "dropout"), _DECAY),
    **dict.fromkeys(("save_every", "val_every", "val_batches", "val_sequences", "log_every"), _COUNT),
    **dict.fromkeys(("sample_every", "eval_every"), _COUNT),
    "until_slope": _number(),
    **dict.fromkeys(("until_loss", "eval_limit"), _ABOVE_ZERO),
    "peak_flops": _number(1),
    # texts and scores
    **dict.fromkeys(("num_tokens", "num_texts"), _COUNT),
    "temperature": _number(0),
    "top_k": _AMOUNT,
    "top_p": replace(_SHARE, above_least=True),
    "limit": _ABOVE_ZERO,
    **dict.fromkeys(("bootstrap_iters", "num_fewshot"), _AMOUNT),
    "block_size": _whole(2),
    # probes and runs
    **dict.fromkeys(("seeds", "processes"), _COUNT),
    "sequences": _whole(2),
    "measure": _AMOUNT,
    # planning
    **dict.fromkeys(("tokens_per_step", "target_params", "target_loss"), _ABOVE_ZERO),
    "threshold": _number(),
    "stages": _COUNT,
    "max_factor": Range(least=1, above_least=True, is_whole=False),
    "batch": _number(1),
    "lr_rule": _ABOVE_ZERO,  # where it is a number
    "from_step": _AMOUNT,
    "decay_share": _number(0, 0.99),
    "mixing": _number(0),
}


def check(name: str, value: float | str | None) -> None:
    """Raises RequestError for a number that the option of that name does not take; words and None are not judged."""
    if value is not None and not isinstance(value, str) and not RANGES[name].holds(value):
        raise _refusal(name, value)


def misfit(name: str, value: object) -> str:
    """What the option of that name takes instead of a number, or of several; "" where it takes them, or there are none.

    >>> misfit("factor", 1), misfit("factor", 2)
    ('a whole number, at least 2', '')
    """
    if name not in RANGES:
        return ""
    values = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    return "" if all(map(RANGES[name].holds, numbers)) else RANGES[name].expected()


def check_rise(peak: float, steps: int) -> None:
    """Raises RequestError for a rise of new entries' rate, to `peak` times the run's over `steps`, that cannot be."""
    if not (0 < peak < math.inf and steps >= 0):
        raise RequestError(
            f"⟦rewarm_new {peak:g},{steps}⟧: expected how many times the learning rate, above 0, and over how many "
            "steps, as 1.3,250"
        )


def read(name: str, text: str, *words: str) -> float | str:
    """One of the words, or the number that a text says for the option of that name; raises RequestError for others."""
    if text in words:
        return text
    found = RANGES[name]
    try:
        value = int(text) if found.is_whole else float(text)
    except ValueError as error:
        raise _refusal(name, text, *words) from error
    if not found.holds(value):
        raise _refusal(name, text, *words)
    return value


def _refusal(name: str, value: object, *words: str) -> RequestError:
    found = f"{value:.10g}" if isinstance(value, float) else value
    return RequestError(f"⟦{name} {found}⟧: expected {RANGES[name].expected(*words)}")
