"""What verification knows of each optimizer: the class that makes its steps, how its records scale, and by how much its
options must differ for updates that scale as the weights do.

With c the measured scale of a weight's entries (mean over input copies), g that of its gradient, r that of its root
mean square and n that of its number of entries:

    an update without the gradient's size (Adam and its kin, signs)    lr: c          eps: g
    the gradient itself (SGD)                                          lr: c / g
    a matrix of given singular values (Muon): entries 1/√n             lr: c · √n / (its factor by shape), eps: g · √n
    an update as large as the weight (Adafactor)                       lr: c / r      eps: g² or g, and r
    decay of the weight: lr · wd stays; decay in the gradient: wd · c / g stays
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.optimization import Adafactor as AdafactorOfTransformers

from ckptgrow.verification.lion import Lion

Ratio = float | tuple[float | None, ...] | None
Ratios = Mapping[str, Ratio]
RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")

# The power of the gradient that an entry of a record is made of, where an optimizer does not say otherwise.
POWERS: Mapping[str, int] = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "exp_inf": 1,
    "sum": 2,
    "square_avg": 2,
    "grad_avg": 1,
    "momentum_buffer": 1,
    "variance": 2,
}
FACTORS = (("row_var", "col_var"), ("exp_avg_sq_row", "exp_avg_sq_col"))
KEPT_AXES = ("row_var",)  # torch's factors keep the averaged axis, whatever their other sizes


@dataclass(frozen=True)
class Measured:
    """The measured scales of one parameter (see the module's head); None where its weight or gradient is zero."""

    weight: float | None
    gradient: float | None
    size: float
    num_entries: float
    old_shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    rounding: float  # of the weight's dtype

    @property
    def rate_of_gradients(self) -> float | None:
        """The learning rate's ratio where the update is the gradient."""
        return None if self.weight is None or not self.gradient else self.weight / self.gradient


@dataclass(frozen=True, eq=False)
class Kind:
    """One optimizer, known by options that a group has; `powers` differ from the common ones; `updates` are averages of
    updates.
    """

    name: str
    options: frozenset[str]
    build: Callable[[Any], torch.optim.Optimizer] | None
    ratios: Callable[[Measured, Mapping[str, Any]], Ratios] | None
    powers: Mapping[str, int] = field(default_factory=dict[str, int])
    updates: tuple[str, ...] = ()
    tolerance: float = 1e-9  # relative, of options: products in float64
    step_rounding: float = 0.0  # of the losses, where steps are computed in less than the weights' dtype


def kind_of(options: Mapping[str, Any]) -> Kind | None:
    """The first kind whose options a group has."""
    return next((kind for kind in KINDS if kind.options <= set(options)), None)


def _rates(ratio: float | None, decay: float | None) -> dict[str, Ratio]:
    return {**dict.fromkeys(RATES, ratio), "weight_decay": decay}


def _inverse(ratio: float | None) -> float | None:
    return 1 / ratio if ratio else None


def _without_size(one: Measured, options: Mapping[str, Any]) -> Ratios:
    in_gradient = options.get("decoupled_weight_decay", "betas" in options) is False
    decay = _inverse(one.rate_of_gradients if in_gradient else one.weight)
    started = None if one.gradient is None else one.gradient**2
    return {**_rates(one.weight, decay), "eps": one.gradient, "initial_accumulator_value": started}


def _coupled(one: Measured, options: Mapping[str, Any]) -> Ratios:
    return _without_size(one, {**options, "decoupled_weight_decay": options.get("decoupled_weight_decay", False)})


def _of_gradients(one: Measured, options: Mapping[str, Any]) -> Ratios:
    return _rates(one.rate_of_gradients, _inverse(one.rate_of_gradients))


def _of_matrices(one: Measured, options: Mapping[str, Any]) -> Ratios:
    def by_shape(shape: tuple[int, ...]) -> float:
        is_matched = options.get("adjust_lr_fn") == "match_rms_adamw"
        return max(shape) ** 0.5 if is_matched else max(1.0, shape[0] / shape[1]) ** 0.5

    root = math.sqrt(one.num_entries)
    shape = by_shape(one.new_shape) / by_shape(one.old_shape)
    rate = None if one.weight is None else one.weight * root / shape
    return {**_rates(rate, _inverse(rate)), "eps": None if one.gradient is None else one.gradient * root}


def _of_weights(one: Measured, options: Mapping[str, Any]) -> Ratios:
    rate = None if one.weight is None else one.weight / one.size
    bound = one.gradient and (one.gradient if len(one.new_shape) < 2 else one.gradient**2)
    return {**_rates(rate, _inverse(rate)), "eps": (bound, one.size)}


def _of_weights_or_not(one: Measured, options: Mapping[str, Any]) -> Ratios:
    size = one.size if options.get("scale_parameter") else 1.0
    rate = None if one.weight is None else one.weight / size
    bound = None if one.gradient is None else one.gradient**2
    return {**_rates(rate, _inverse(one.weight)), "eps": (bound, size)}


def _adam(groups: Any) -> torch.optim.Optimizer:
    is_coupled = any(group.get("decoupled_weight_decay") is False for group in groups)
    return torch.optim.Adam(groups) if is_coupled else torch.optim.AdamW(groups)


def _kind(name: str, options: str, build: Any, ratios: Any, **rest: Any) -> Kind:
    return Kind(name, frozenset(options.split()), build, ratios, **rest)


ROUNDED = 1e-6  # where the size of stored weights enters

KINDS: tuple[Kind, ...] = (
    _kind("NAdam", "betas momentum_decay", torch.optim.NAdam, _coupled),
    _kind("Adam", "betas eps amsgrad", _adam, _without_size),
    _kind("Adam", "betas eps correct_bias", _adam, _without_size),
    _kind("RAdam", "betas eps decoupled_weight_decay", torch.optim.RAdam, _coupled),
    _kind("Adamax", "betas eps capturable", torch.optim.Adamax, _coupled),
    _kind("Adam's averages", "betas eps", None, None),
    _kind("Lion", "betas", Lion, _without_size),
    _kind("Adagrad", "lr_decay", torch.optim.Adagrad, _coupled),
    _kind("RMSprop", "alpha centered", torch.optim.RMSprop, _coupled, powers={"momentum_buffer": 0}),
    _kind("Muon", "momentum ns_steps", torch.optim.Muon, _of_matrices, step_rounding=2e-3),
    _kind("SGD", "momentum dampening", torch.optim.SGD, _of_gradients),
    _kind("Adafactor", "beta2_decay", torch.optim.Adafactor, _of_weights, tolerance=ROUNDED),
    _kind(
        "Adafactor", "decay_rate", AdafactorOfTransformers, _of_weights_or_not, updates=("exp_avg",), tolerance=ROUNDED
    ),
)
