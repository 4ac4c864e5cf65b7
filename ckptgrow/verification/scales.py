"""The measured factors of every parameter, in the form by which options of optimizers are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial

import numpy as np
import torch

from ckptgrow.storage.tensors import LazyTensor, num_elements
from ckptgrow.verification.gradients import GradientScale
from ckptgrow.verification.optimizers import Measured
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.tensor_blocks import exact_sum, pieces, row_sums
from ckptgrow.verification.weights import WeightScale


class Scales:
    """Looks up a grown parameter's factors: `of(name)`. A new layer has those of the layer that it was made from."""

    def __init__(self, pair: Pair, weights: Mapping[str, WeightScale], gradients: Mapping[str, GradientScale]) -> None:
        self._pair, self._weights, self._gradients = pair, weights, gradients
        self._old_layers = {link.small.name: name for name, link in pair.links.items() if link.is_of_old_weights}
        self.of = cache(self._measured)

    def _measured(self, name: str) -> Measured:
        link = self._pair.links[name]
        origin = self._old_layers[link.small.name]
        factor, factors = self._weights[origin].factor, self._gradients[origin].factors
        dtype = self._pair.small.checkpoint.tensors[link.small.name].dtype
        return Measured(
            weight=None if factor is None else factor / link.num_in_copies,
            gradient=float(factors[0]) if factors.numel() == 1 else None,
            size_of=partial(self._size, link, self._pair.links[origin]),
            num_entries=_num_copies(link),
            old_shape=tuple(growth.num_old for growth in link.growths),
            new_shape=tuple(growth.num_new for growth in self._pair.links[origin].growths),
            rounding=torch.finfo(dtype).eps,
        )

    def _size(self, link: Link, origin: Link) -> float:
        """The factor of the stored weight's root mean square, as an optimizer sees the weight.

        That is without the 1 that some norms add, and with the entries that copy nothing.
        """
        old, new = (
            _root_mean_square(state.checkpoint.tensors[name])
            for state, name in ((self._pair.small, link.small.name), (self._pair.grown, origin.grown.name))
        )
        return new / old if old and new else 1.0


def _root_mean_square(tensor: LazyTensor) -> float:
    squares = [one for piece in pieces(tensor) for one in row_sums(piece.double().square())]
    return math.sqrt(exact_sum(squares) / num_elements(tensor))


def _num_copies(link: Link) -> float:
    return float(np.prod([growth.num_new / growth.num_old for growth in link.growths]))
