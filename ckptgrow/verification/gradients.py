"""How each parameter's gradient scales, measured by autograd in both real models.

Terms of the grown weights that the function cannot see (noise) change gradients; to measure the algebra of the source
they are averaged away: every weight is replaced by its mean over the copies of its inputs, which changes no output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ckptgrow.spaces.selection import selected
from ckptgrow.verification.magnitude import largest, relative
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.weights import snapped

Gradients = Mapping[str, torch.Tensor]
INEXACT = 1e-3  # behind a LayerNorm what writes new residual coordinates feels them, by percents
DEAD = 1e-9  # relative to the model's largest gradient: key biases under softmax have none


@dataclass(frozen=True)
class GradientScale:
    """`factors`: one a class of copy counts (`Link.copy_classes`), None where the gradient is zero by nature;
    `error`: what is left, relative to the largest entry.
    """

    factors: torch.Tensor | None
    error: float

    def at(self, link: Link) -> torch.Tensor:
        """The factor for every grown entry; a single number where it is one."""
        assert self.factors is not None
        return self.factors if self.factors.numel() == 1 else self.factors[link.copy_classes()]


def gradient_scales(pair: Pair, small: Gradients, grown: Gradients) -> Mapping[str, GradientScale]:
    """Every old parameter's scale, by the grown name."""
    scale_of_all = max(largest(gradient) for gradient in small.values())
    return {name: _scale(link, small, grown, scale_of_all) for name, link in pair.links.items() if link.fresh is None}


def without_null_terms(model: PreTrainedModel, pair: Pair) -> None:
    """Replaces the grown model's weights by their means over the copies of their inputs, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for link in pair.links.values():
            if not link.has_copies or not link.in_axes:
                continue
            parameter = parameters[link.grown.canonical]
            summed = link.summed_inputs(parameter.detach().cpu())
            for axis in link.in_axes:
                growth = link.growths[axis]
                shape = [1] * summed.dim()
                shape[axis] = -1
                counts = torch.from_numpy(growth.num_copies).reshape(shape)
                summed = selected(summed, axis, growth.source) / counts.to(summed.dtype)
            parameter.copy_(summed)


def _scale(link: Link, small: Gradients, grown: Gradients, scale_of_all: float) -> GradientScale:
    old, new = small.get(link.small.canonical), grown.get(link.grown.canonical)
    if old is None or new is None or largest(old) <= DEAD * scale_of_all:
        left = 0.0 if new is None else largest(new) / scale_of_all
        return GradientScale(None, left)
    spread, new = link.spread(old.double()), link.copied_part(new.double())
    factors = _fitted(link, spread, new)
    scale = GradientScale(factors, 0.0)
    expected = scale.at(link) * spread
    error = relative(new, expected)
    if link.is_padded and error > INEXACT:
        factors = torch.ones(1, dtype=torch.float64)  # no constant describes it: the moments are to stay as they were
    return GradientScale(factors, error)


def _fitted(link: Link, spread: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Least-squares factors of `new` on `spread`, one a class of copy counts."""
    if all(len(set(growth.num_copies.tolist())) == 1 for growth in link.growths):
        power = float(spread.square().sum())
        return torch.tensor([snapped(float((spread * new).sum()) / power)], dtype=torch.float64)
    classes = link.copy_classes().reshape(-1)
    num_classes = int(classes.max()) + 1
    powers = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, classes, spread.square().reshape(-1))
    products = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, classes, (spread * new).reshape(-1))
    return torch.tensor([snapped(float(p) / float(q)) if q > 0 else 0.0 for p, q in zip(products, powers, strict=True)])
