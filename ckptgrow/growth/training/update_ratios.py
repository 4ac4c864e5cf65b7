"""By how much the options of one parameter's group change, so that its updates are the small model's: the rules of
`learning_rates`, one a kind of optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ckptgrow.errors import OptimizerError
from ckptgrow.growth.lineage import Descent
from ckptgrow.growth.training.grown_bases import LIMITS
from ckptgrow.growth.training.optimizer_table import OptimizerRow, is_coupled
from ckptgrow.growth.training.sides import Sides
from ckptgrow.growth.training.weight_sizes import WeightSizes

SAME = 1e-6  # of root mean squares in float32 weights
LARGEST_NORM = 10.0  # of a weight, as pytorch-optimizer's LAMB takes it


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ratios of new to old options; `eps` has one ratio for each number in that option, which may be a tuple."""

    lr: float
    eps: tuple[float, ...]
    weight_decay: float
    gradient: float  # of the gradient itself, for options in its units
    update: float = 1.0  # of updates, for options in their units
    rounding: float = 0.0  # what torch's Adafactor takes for an ε₁ that is None


def ratio_of(row: OptimizerRow, options: Mapping[str, Any], one: Descent, sizes: WeightSizes) -> Ratio:
    """The ratios of a parameter's options, new to old.

    Raises OptimizerError where an optimizer has no rule, or none that is exact with these options.
    """
    if row.lr == "none":
        why = f": {row.reason}" if row.reason else ""
        raise OptimizerError(
            f"no lr rule known for {row.name}{why}, expected another such as AdamW; use ⟦lr_rule keep⟧"
        )
    sides = Sides.of(one.name, one.growth)
    sides = replace(sides, write_out=sides.write_out * one.share, read_out=sides.read_out * one.share_of_gradient)
    update, gradient = sides.update, sides.gradient
    coupled = gradient / update
    if row.lr == "gradient":
        return Ratio(lr=update / gradient, eps=(), weight_decay=coupled, gradient=gradient)
    if row.lr == "adafactor":
        return _adafactor(options, one, sides, sizes)
    if row.lr == "trust" and _is_adapted(options):
        return _trusted(options, one, sides, sizes)
    if row.lr == "orthogonal":
        if len(one.growth.axes) != 2:
            raise OptimizerError(
                f"{one.name} of {row.name} has {len(one.growth.axes)} axes, expected a matrix; use ⟦lr_rule keep⟧"
            )
        spread = math.sqrt(sides.copies_out * sides.copies_in)
        lr = update * spread / _shape_factor(options.get("adjust_lr_fn"), one)
        return Ratio(lr=lr, eps=(gradient * spread,), weight_decay=1 / lr, gradient=gradient)
    if row.lr == "bases":
        return _in_bases(options, one, sides)
    is_in_gradient = is_coupled(row, options) and bool(options.get("weight_decay"))
    if is_in_gradient:
        _check_equal_copies(f"{row.name} with weight decay in the gradient", one, update, sizes)
    if row.lr == "layer scale":  # its decay does not know the layer's scale
        decay = coupled if is_in_gradient else 1.0
        return Ratio(lr=1.0, eps=(gradient,), weight_decay=decay, gradient=gradient, update=update)
    decay = coupled if is_in_gradient else 1 / update
    return Ratio(lr=update, eps=(gradient,), weight_decay=decay, gradient=gradient)


def _in_bases(options: Mapping[str, Any], one: Descent, sides: Sides) -> Ratio:
    """The ratios for SOAP: in a basis n copies of a coordinate are one, √n times as large; so an update by Adam there
    has entries 1/√n as large, as Muon's has.

    Raises OptimizerError for updates whose size is set besides.
    """
    if options.get("normalize_gradient", options.get("normalize_grads")):
        raise OptimizerError(
            "SOAP with normalized gradients adds its ε to two sizes, so no lr rule is exact, expected it off; use "
            "⟦lr_rule keep⟧"
        )
    has_bases = len(one.growth.axes) > 1 or bool(options.get("precondition_1d"))
    limit = next((options[key] for key in LIMITS if key in options), math.inf)
    turned = [axis.growth for axis in one.growth.axes if has_bases and axis.growth.num_old <= limit]
    spread = math.sqrt(math.prod(growth.num_new / growth.num_old for growth in turned))
    lr = sides.update * spread
    return Ratio(lr=lr, eps=(sides.gradient * spread,), weight_decay=1 / lr, gradient=sides.gradient)


def _check_equal_copies(what: str, one: Descent, update: float, sizes: WeightSizes) -> None:
    """Raises OptimizerError where not all of a weight changes by the factor of its updates."""
    if abs(sizes.ratio(one) - update) > SAME * update:
        raise OptimizerError(
            f"{what} has no exact lr rule unless all copies are equal, "
            "expected ⟦how tile⟧ ⟦separate none⟧, decoupled decay, or none; use ⟦lr_rule keep⟧"
        )


def _is_adapted(options: Mapping[str, Any]) -> bool:
    """Whether LAMB multiplies an update by the weight's size over the update's.

    timm's and apex's do not where there is no weight decay, unless they are told to (apex's groups do not say that).
    """
    if "adam" in options:
        return not options["adam"]
    return bool(options.get("weight_decay") or options.get("always_adapt"))


def _trusted(options: Mapping[str, Any], one: Descent, sides: Sides, sizes: WeightSizes) -> Ratio:
    """The ratios for LAMB: u / r as Adafactor's, since the update's own size is that of its entries.

    Raises OptimizerError for bounds on the ratio of both sizes, which growth changes.
    """
    bounds = [name for name in ("trust_clip", "max_coeff", "min_coeff", "rectify") if options.get(name)]
    if bounds:
        raise OptimizerError(
            f"LAMB with {bounds[0]} bounds how the sizes of weights and updates compare, so no lr rule is exact, "
            "expected none of it; use ⟦lr_rule keep⟧"
        )
    if one.old.layout.offset and sides.update != 1:
        raise OptimizerError(
            f"{one.name} is stored without its 1, so its size does not grow with its updates and no learning rate of "
            "LAMB's keeps its trajectory; use ⟦lr_rule keep⟧"
        )
    if "rectify" in options:
        old, new = sizes.norms(one)
        if max(old, new) > LARGEST_NORM:
            raise OptimizerError(
                f"{one.name} has the norm {old:.3g}, and {new:.3g} when it is grown, which this LAMB takes as at most "
                f"{LARGEST_NORM:g}, expected smaller ones; use ⟦lr_rule keep⟧"
            )
    lr = sides.update / sizes.ratio(one)
    if abs(lr - 1) <= SAME:  # all of the weight changed by that much, but for its rounding
        lr = 1.0
    decay = 1 / lr
    if not options.get("weight_decouple", options.get("decoupled_decay", False)) and options.get("weight_decay"):
        _check_equal_copies("LAMB with weight decay in its update", one, sides.update, sizes)
        decay = 1 / sides.update
    elif options.get("fixed_decay"):
        decay = 1.0
    return Ratio(lr=lr, eps=(sides.gradient,), weight_decay=decay, gradient=sides.gradient)


def _adafactor(options: Mapping[str, Any], one: Descent, sides: Sides, sizes: WeightSizes) -> Ratio:
    """The ratios for both kinds of Adafactor.

    torch's always scales updates by the weight's size, and its ε₁ bounds g² of matrices but |g| of vectors.
    """
    is_torch = "beta2_decay" in options
    is_scaled = bool(is_torch or options.get("scale_parameter"))
    if is_scaled and one.old.layout.offset and sides.update != 1:
        raise OptimizerError(
            f"{one.name} is stored without its 1, so its size does not grow with its updates and no learning "
            "rate of Adafactor's keeps its trajectory, expected scale_parameter=False; use ⟦lr_rule keep⟧"
        )
    size = sizes.ratio(one) if is_scaled else 1.0
    lr = sides.update / size
    if abs(lr - 1) <= SAME:  # all of the weight changed by that much, but for its rounding
        lr, size = 1.0, sides.update
    if options.get("relative_step") and lr != 1:
        raise OptimizerError(
            f"Adafactor with relative_step has no learning rate that could change by {lr:.3g}, as "
            f"{one.name} demands, expected scale_parameter and ⟦how tile⟧ ⟦separate none⟧; use ⟦lr_rule keep⟧"
        )
    is_vector = is_torch and len(one.growth.axes) < 2
    bound = sides.gradient if is_vector else sides.gradient**2
    decay = 1 / sides.update if not is_torch else 1 / lr
    return Ratio(
        lr=lr,
        eps=(bound, size),
        weight_decay=decay,
        gradient=sides.gradient,
        rounding=torch.finfo(sizes.old[one.old.name].dtype).eps,
    )


def _shape_factor(kind: str | None, one: Descent) -> float:
    """The ratio, new to old, of Muon's own factor on the learning rate."""
    new = tuple(axis.growth.num_new for axis in one.growth.axes)
    return _adjusted(kind, new) / _adjusted(kind, one.growth.old_shape)


def _adjusted(kind: str | None, shape: Sequence[int]) -> float:
    rows, columns = shape[:2]
    return math.sqrt(max(rows, columns)) if kind == "match_rms_adamw" else math.sqrt(max(1.0, rows / columns))
