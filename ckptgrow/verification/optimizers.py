"""What verification knows of each optimizer: the class that makes its steps, how its records and options scale.

The options must change so that updates scale as the weights do. Let c be the measured factor of a weight's entries
(the mean over input copies), g that of its gradient, r that of its root mean square, n that of its number of entries:

    an update without the gradient's size (Adam and its kin, signs)    lr: c          eps: g
    the gradient itself (SGD)                                          lr: c / g
    a matrix of given singular values (Muon): entries 1/√n             lr: c · √n / (its factor by shape), eps: g · √n
    an update as large as the weight (Adafactor)                       lr: c / r      eps: g² or g, and r
    the same by the sizes of both (LAMB)                               lr: c / r      eps: g
    a gradient over a squared one, times 1/ρ (Sophia)                  lr: c          rho: 1 / g
    one rate for all groups, and a scale of each (D-Adaptation)        layer_scale: c eps: g
    decay of the weight: lr · wd stays; decay in the gradient: wd · c / g stays
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import torch

from ckptgrow.errors import OptimizerError
from ckptgrow.state.optimizer_kinds import recognised
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
    "exp_avg_diff": 1,
    "previous_grad": 1,
    "neg_pre_grad": 1,
    "s": 1,
    "hessian": 2,
    "momentum_buffer": 1,
    "variance": 2,
}
FACTORS = (("row_var", "col_var"), ("exp_avg_sq_row", "exp_avg_sq_col"))
KEPT_AXES = ("row_var",)  # torch's factors keep the averaged axis, whatever their other sizes


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured factors of one parameter, new over old, as the module's head names them.

    `weight`: c, None where the small weight is zero; `gradient`: g, None where it is not one number; `size_of` reads
    the weights and gives r; `num_entries`: n.
    """

    weight: float | None
    gradient: float | None
    size_of: Callable[[], float]
    num_entries: float
    old_shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    rounding: float  # of the weight's dtype

    @cached_property
    def size(self) -> float:
        """r, which few optimizers need."""
        return self.size_of()

    @property
    def rate_of_gradients(self) -> float | None:
        """The ratio c / g of learning rates for updates that are the gradient itself; None where it is unknown."""
        return None if self.weight is None or not self.gradient else self.weight / self.gradient


@dataclass(frozen=True, eq=False, kw_only=True)
class StepRule:
    """How one optimizer is judged, by its name.

    `build`: makes the torch optimizer of some groups; `ratios`: by how much each option must change; `powers`: the
    powers of the gradient in a record's entries, where they differ from `POWERS`; `updates`: entries that are averages
    of updates instead of gradients; `times`: options by whose ratio entries change besides; `weights`: entries that are
    other points in the space of weights; `readings`: entries that stay; `bases`: the products of gradients, their
    eigenvectors, and the squares in these; `rows`: means of squares along the rows of an update like Muon's; `clock`:
    the option that counts a group's steps; `begins_without`: new parameters have no record.
    """

    name: str
    build: Callable[[Any], torch.optim.Optimizer] | None
    ratios: Callable[[Measured, Mapping[str, Any]], Ratios] | None
    powers: Mapping[str, int] = field(default_factory=dict[str, int])
    updates: tuple[str, ...] = ()
    times: Mapping[str, str] = field(default_factory=dict[str, str])
    weights: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    clock: str | None = None
    begins_without: bool = False
    tolerance: float = 1e-9  # relative, of options: products in float64
    step_rounding: float = 0.0  # of the losses, where steps are computed in less than the weights' dtype


def step_rule(options: Mapping[str, Any], record: Collection[str]) -> StepRule | None:
    """The rule of the optimizer to which a group's options and a record's keys belong; None where it is not known."""
    kind = recognised(options, record)
    return next((rule for rule in RULES if kind is not None and rule.name == kind.name), None)


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


def _of_rows(one: Measured, options: Mapping[str, Any]) -> Ratios:
    """Muon's, with an ε beside entries of the orthogonal matrix; or of entries whose size is set."""
    root = math.sqrt(one.num_entries)
    if options["update_scale"] == "preserve_norm":
        adjusted = "match_rms_adamw" if options.get("use_adjusted_lr") else None
        return {**_of_matrices(one, {**options, "adjust_lr_fn": adjusted}), "eps": 1 / root}
    return {**_rates(one.weight, _inverse(one.weight)), "eps": 1 / root}


def _beside(one: Measured, options: Mapping[str, Any]) -> Ratios:
    return _without_size(one, {**options, "decoupled_weight_decay": bool(options.get("weight_decouple"))})


def _of_weights(one: Measured, options: Mapping[str, Any]) -> Ratios:
    rate = None if one.weight is None else one.weight / one.size
    bound = one.gradient and (one.gradient if len(one.new_shape) < 2 else one.gradient**2)
    return {**_rates(rate, _inverse(rate)), "eps": (bound, one.size)}


def _of_weights_or_not(one: Measured, options: Mapping[str, Any]) -> Ratios:
    size = one.size if options.get("scale_parameter") else 1.0
    rate = None if one.weight is None else one.weight / size
    bound = None if one.gradient is None else one.gradient**2
    return {**_rates(rate, _inverse(one.weight)), "eps": (bound, size)}


def _of_averaged(one: Measured, options: Mapping[str, Any]) -> Ratios:
    ratios = _of_gradients(one, options) if "momentum" in options else _without_size(one, options)
    rate, power = ratios["lr"], options["weight_lr_power"]
    summed = rate**power if isinstance(rate, float) else None
    return {**ratios, "lr_max": rate, "scheduled_lr": rate, "weight_sum": summed}


def _of_curvature(one: Measured, options: Mapping[str, Any]) -> Ratios:
    return {**_without_size(one, options), "rho": _inverse(one.gradient)}


def _of_layers(one: Measured, options: Mapping[str, Any]) -> Ratios:
    decay = 1.0 if options.get("decouple") else _inverse(one.rate_of_gradients)
    return {"layer_scale": one.weight, "eps": one.gradient, "weight_decay": decay}


def _of_bases(one: Measured, options: Mapping[str, Any]) -> Ratios:
    """In the basis of an axis, n equal copies of a coordinate are one coordinate that is √n as large."""
    limit = options.get("max_precondition_dim", options.get("max_precond_dim", math.inf))
    is_turned = len(one.old_shape) > 1 or options.get("precondition_1d")
    pairs = zip(one.new_shape, one.old_shape, strict=True)
    root = math.sqrt(math.prod(new / old for new, old in pairs if is_turned and old <= limit))
    rate = None if one.weight is None else one.weight * root
    return {**_rates(rate, _inverse(rate)), "eps": None if one.gradient is None else one.gradient * root}


def _of_trust(one: Measured, options: Mapping[str, Any]) -> Ratios:
    """Where the sizes of weight and update are not compared, updates are Adam's."""
    decays, is_apart = options.get("weight_decay"), options.get("weight_decouple", options.get("decoupled_decay"))
    is_compared = not options["adam"] if "adam" in options else bool(decays or options.get("always_adapt"))
    rate = None if one.weight is None else one.weight / (one.size if is_compared else 1.0)
    decay = 1.0 if options.get("fixed_decay") and is_apart else _inverse(rate if is_apart or not decays else one.weight)
    return {**_rates(rate, decay), "eps": one.gradient}


def _packaged(module: str, name: str) -> Callable[[Any], torch.optim.Optimizer]:
    """The optimizer of a package that not everyone has; raises OptimizerError where it is missing."""

    def build(groups: Any) -> torch.optim.Optimizer:
        try:
            package = import_module(module)
        except ImportError as error:
            raise OptimizerError(
                f"its steps are taken by {module}.{name}, expected this package; install it, or leave ⟦steps⟧ out"
            ) from error
        return getattr(package, name)(groups)

    return build


def _adam(groups: Any) -> torch.optim.Optimizer:
    is_coupled = any(group.get("decoupled_weight_decay") is False for group in groups)
    return torch.optim.Adam(groups) if is_coupled else torch.optim.AdamW(groups)


def _adafactor_of_transformers(groups: Any) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor  # seconds, which a comparison of what is stored does without

    return Adafactor(groups)


_NORMUON = _packaged("pytorch_optimizer", "NorMuon")
ROUNDED = 1e-6  # where the size of stored weights enters
EIGHT_BITS = 2e-2  # of a loss's change: moments that were rounded to 8 bits anew

RULES: tuple[StepRule, ...] = (
    StepRule(
        name="AdamWScheduleFree",
        build=_packaged("schedulefree", "AdamWScheduleFree"),
        ratios=_of_averaged,
        weights=("z",),
        clock="k",
        begins_without=True,
    ),
    StepRule(name="RAdamScheduleFree", build=None, ratios=None, weights=("z",), clock="k", begins_without=True),
    StepRule(
        name="SGDScheduleFree",
        build=_packaged("schedulefree", "SGDScheduleFree"),
        ratios=_of_averaged,
        weights=("z",),
        clock="k",
        begins_without=True,
    ),
    StepRule(
        name="Prodigy",
        build=_packaged("prodigyopt", "Prodigy"),
        ratios=None,
        weights=("p0",),
        clock="k",
        begins_without=True,
    ),
    StepRule(
        name="DAdaptAdam",
        build=_packaged("dadaptation", "DAdaptAdam"),
        ratios=_of_layers,
        times={"exp_avg": "layer_scale"},
        clock="k",
        begins_without=True,
    ),
    StepRule(
        name="Adan",
        build=_packaged("pytorch_optimizer", "Adan"),
        ratios=_without_size,
        clock="step",
        begins_without=True,
    ),
    StepRule(
        name="SOAP",
        build=_packaged("pytorch_optimizer", "SOAP"),
        ratios=_of_bases,
        powers={"exp_avg_sq": 0},
        readings=("precondition_frequency", "shampoo_beta"),
        bases=("GG", "Q", "exp_avg_sq"),
        clock="step",
        begins_without=True,
        step_rounding=2e-3,  # its bases turn in float32, and where copies agree it divides by what this leaves
    ),
    StepRule(name="SophiaG", build=None, ratios=_of_curvature),
    StepRule(name="AdamW of bitsandbytes", build=torch.optim.AdamW, ratios=_without_size, step_rounding=EIGHT_BITS),
    StepRule(name="SGD of bitsandbytes", build=None, ratios=_of_gradients),
    StepRule(name="Lion of bitsandbytes", build=Lion, ratios=_without_size, step_rounding=EIGHT_BITS),
    StepRule(name="RMSprop of bitsandbytes", build=None, ratios=_coupled),
    StepRule(name="Adagrad of bitsandbytes", build=None, ratios=_coupled),
    StepRule(name="NAdam", build=torch.optim.NAdam, ratios=_coupled),
    StepRule(name="Adam", build=_adam, ratios=_without_size),
    StepRule(name="AdamW", build=_adam, ratios=_without_size),
    StepRule(name="AdamW of transformers", build=_adam, ratios=_without_size),
    StepRule(name="DeepSpeedCPUAdam", build=_adam, ratios=_without_size),
    StepRule(name="RAdam", build=torch.optim.RAdam, ratios=_coupled),
    StepRule(name="Adamax", build=torch.optim.Adamax, ratios=_coupled),
    StepRule(
        name="LAMB",
        build=_packaged("pytorch_optimizer", "Lamb"),
        ratios=_of_trust,
        readings=("weight_norm", "adam_norm", "trust_ratio"),
        clock="step",
        begins_without=True,
        tolerance=ROUNDED,
    ),
    StepRule(name="FusedAdam", build=None, ratios=None, clock="step"),
    StepRule(name="an optimizer with Adam's averages", build=None, ratios=None),
    StepRule(name="Lion", build=Lion, ratios=_without_size),
    StepRule(name="Adagrad", build=torch.optim.Adagrad, ratios=_coupled),
    StepRule(name="RMSprop", build=torch.optim.RMSprop, ratios=_coupled, powers={"momentum_buffer": 0}),
    StepRule(name="Muon", build=torch.optim.Muon, ratios=_of_matrices, step_rounding=2e-3),
    StepRule(
        name="NorMuon",
        build=_NORMUON,
        ratios=_of_rows,
        rows=("second_momentum_buffer",),
        clock="step",
        begins_without=True,
        step_rounding=2e-3,
    ),
    StepRule(name="AdamW beside Muon", build=_NORMUON, ratios=_beside, clock="step", begins_without=True),
    StepRule(name="SGD", build=torch.optim.SGD, ratios=_of_gradients),
    StepRule(name="Adafactor", build=torch.optim.Adafactor, ratios=_of_weights, tolerance=ROUNDED),
    StepRule(
        name="Adafactor of transformers",
        build=_adafactor_of_transformers,
        ratios=_of_weights_or_not,
        updates=("exp_avg",),
        tolerance=ROUNDED,
    ),
)
