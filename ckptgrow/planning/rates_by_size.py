"""Peak learning rates by the number N of parameters without embeddings, within the sizes of each rule's fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ckptgrow.choices import RateRule
from ckptgrow.errors import RequestError

LARGEST_FITTED = 1.5e9  # parameters without embeddings of the largest model in Kaplan et al.'s study (section 1)
# Layers, width and peak rate of the eight models of Brown et al., arXiv 2005.14165, table 2.1
GPT3 = (
    (12, 768, 6.0e-4),
    (24, 1024, 3.0e-4),
    (24, 1536, 2.5e-4),
    (24, 2048, 2.0e-4),
    (32, 2560, 1.6e-4),
    (32, 4096, 1.2e-4),
    (40, 5140, 1.0e-4),
    (96, 12288, 0.6e-4),
)


def lr_for_size(num_parameters: float) -> float:
    """The learning rate of the staged-training script, 0.003239 − 0.0001395 · log10 N.

    Source: Kaplan et al., arXiv 2001.08361, appendix D.6, whose formula has the natural logarithm.

    Raises RequestError beyond the sizes to which the formula was fitted.
    """
    return _by_logarithm(num_parameters, math.log10, "log10")


def lr_of_kaplan(num_parameters: float) -> float:
    """The learning rate as Kaplan et al. write it, 0.003239 − 0.0001395 · ln N; raises RequestError beyond their
    models.
    """
    return _by_logarithm(num_parameters, math.log, "natural")


def lr_of_gpt3(num_parameters: float) -> float:
    """The learning rates of GPT-3's models, log-log linear between their sizes; below these that of the smallest.

    Raises RequestError beyond the largest.
    """
    sizes = np.array([12 * layers * width**2 for layers, width, _ in GPT3], dtype=np.float64)
    if not num_parameters <= sizes[-1]:
        raise RequestError(
            f"learning rate: the largest model of the rule gpt3 has {sizes[-1]:.3g} parameters, expected no more than "
            f"that, not {num_parameters:.3g}; give the peak rate as a number"
        )
    rates = np.log([rate for _, _, rate in GPT3])
    return float(np.exp(np.interp(np.log(max(num_parameters, 1.0)), np.log(sizes), rates)))


RULES: Mapping[RateRule, Callable[[float], float]] = {
    "log10": lr_for_size,
    "natural": lr_of_kaplan,
    "gpt3": lr_of_gpt3,
}


def _by_logarithm(num_parameters: float, log: Callable[[float], float], name: str) -> float:
    if not 1 <= num_parameters <= LARGEST_FITTED:
        other = "" if num_parameters < 1 else _other(num_parameters)
        raise RequestError(
            f"learning rate: the formula 0.003239 − 0.0001395 · log N ({name}) was found on models of up to "
            f"{LARGEST_FITTED:.2g} parameters without embeddings, expected no more than that, not "
            f"{num_parameters:.3g}; give the peak rate as a number{other}"
        )
    return 0.003239 - 0.0001395 * log(num_parameters)


def _other(num_parameters: float) -> str:
    """A remark on the learning rate of GPT-3's model of this size; empty where it has none."""
    try:
        return f" (GPT-3's models: {lr_of_gpt3(num_parameters):.2g} at this size)"
    except RequestError:
        return ""
