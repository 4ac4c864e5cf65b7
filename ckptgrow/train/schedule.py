"""The learning rate that a size of model wants."""

from __future__ import annotations

import math


def lr_for_size(num_parameters: int) -> float:
    """0.003239 − 0.0001395 · log10 N, N without embeddings: the learning rate of the staged-training script.

    Source: Kaplan et al., arXiv 2001.08361, appendix D.6, whose formula has the natural logarithm.
    """
    return 0.003239 - 0.0001395 * math.log10(num_parameters)
