"""How each parameter's gradient scales, measured by autograd in both real models.

Terms of the grown weights that the function cannot see (a split, noise) change gradients, and so does the rounding of
stored weights. To measure the algebra of the source the grown model gets ideal weights: the small one's times the
measured factor of each weight, shared evenly over the copies of its inputs. The stored weights are judged against those
entry by entry elsewhere (`weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ckptgrow.verification.factors import snapped
from ckptgrow.verification.magnitude import largest, relative
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.weights import WeightScale

Gradients = Mapping[str, torch.Tensor]
INEXACT = 1e-3  # behind a LayerNorm what writes new residual coordinates feels them, by percents
DEAD = 1e-9  # relative to the model's largest gradient: key biases under softmax have none


@dataclass(frozen=True)
class GradientScale:
    """`factors`: one a class of copies (`Link.copy_classes`), None where the gradient is zero by nature; `error`: what
    is left, relative to the largest entry.
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


def idealise(model: PreTrainedModel, pair: Pair, weights: Mapping[str, WeightScale]) -> None:
    """Replaces the grown model's weights by ideal ones (see the module's head), in place; new layers stay."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, link in pair.links.items():
            if link.fresh is not None or link.is_padded or not link.has_copies:
                continue
            factor = weights[name].factor
            ideal = link.spread(pair.small_tensor(link)) * (1.0 if factor is None else factor)
            for axis in link.in_axes:
                shape = [1] * ideal.dim()
                shape[axis] = -1
                ideal *= torch.from_numpy(link.growths[axis].read).reshape(shape)
            parameters[link.grown.canonical].copy_(ideal - link.grown.layout.offset)


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
    """Least-squares factors of `new` on `spread`, one a class of copies, as what they stand for."""
    if all(len(set(growth.read.tolist())) == 1 for growth in link.growths):
        power = float(spread.square().sum())
        return torch.tensor([snapped(float((spread * new).sum()) / power, link.ratios)], dtype=torch.float64)
    classes = link.copy_classes().reshape(-1)
    num_classes = int(classes.max()) + 1
    powers = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, classes, spread.square().reshape(-1))
    products = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, classes, (spread * new).reshape(-1))
    measured = [float(p) / float(q) if q > 0 else 0.0 for p, q in zip(products, powers, strict=True)]
    return torch.tensor([snapped(one, link.ratios) for one in measured], dtype=torch.float64)
