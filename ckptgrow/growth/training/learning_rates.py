"""Learning rates after growth.

`keep` leaves every group as it is: effective matrices then move faster. `mup` keeps the trajectory: in the subspace in
which the copies agree, the grown model's updates are the old ones. With n the number of copies, f the write and b the
read of a tensor's output and input spaces, an entry's update must change by u = f_out / (n_in · f_in), and its gradient
changes by s = b_out · f_in. What an optimizer makes of s decides:

    normalised       the update has no size of the gradient (Adam, NAdam, RAdam after its first steps, Adamax, Adagrad,
                     RMSprop, Lion's sign):           lr'/lr = u            eps'/eps = s
    gradient         the update is the gradient (SGD, momentum):
                                                      lr'/lr = u / s = n_out · f_out² / (n_in · f_in²)
    orthogonal       the update U·Vᵀ has entries 1/√(n_out · n_in) as large (Muon, on hidden matrices 1):
                                                      lr'/lr = u · √(n_out · n_in) · a/a'    with a its factor by shape
                                                      eps'/eps = s · √(n_out · n_in)         of the Frobenius norm
    Adafactor        the update is normalised, and may be as large as the weight, whose root mean square changes by r:
                                                      lr'/lr = u / r        ε₂'/ε₂ = r       ε₁ with the gradient
    decoupled decay                                   wd'/wd = lr/lr'      (a power of it by another `wd_rule`)
    coupled decay    wd · W is added to g, so it must change by s where W changes by u: wd'/wd = s / u. Linear in
                     SGD, so exact for any weights; else only where all of W changes by u (`tile`, no separation).

`wd_rule` says that power: 1 keeps the trajectory, lr · wd staying as it is (independent weight decay, and the width
rule of Complete(d)P, arXiv 2512.22382); ½ is wd ∝ √width where lr ∝ 1/width, which keeps the gain of a matrix in the
steady state that decay leads to; 0 leaves wd.

With that power of 1 the rule is Complete(d)P with α = 1 (CompleteP, arXiv 2505.01618), its multipliers put into the
weights. Width m: hidden matrices η/m, λ·m, ε/m; embeddings and vectors η, ε/m; a head with a multiplier of 1/m, put
into its weight, η/m. Depth m, where each layer writes its share 1/m: what writes the stream η/m, what does not ε/m.
Layers that are exact identities leave the multipliers and the gradients of the old ones, so nothing changes.

Averages of updates (Adafactor's β₁) carry their learning rate with them and are scaled along.

Source: derived here from equal function and equal update; the width scaling is that of Yang & Hu et al., "Tensor
Programs V", arXiv 2203.03466. Muon's factors by shape: Liu et al., "Muon is Scalable", arXiv 2502.16982.
wd ∝ √width: Fan et al., "Robust Layerwise Scaling Rules by Proper Weight Decay Tuning", arXiv 2510.15262.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ckptgrow.choices import DecayRule
from ckptgrow.errors import OptimizerError, at
from ckptgrow.growth.growing import Growing
from ckptgrow.growth.lineage import Descent
from ckptgrow.growth.tensors.grown_tensors import scaled
from ckptgrow.growth.training.optimizer_table import OptimizerRow, is_coupled, row_of
from ckptgrow.growth.training.sides import Sides
from ckptgrow.growth.training.weight_sizes import WeightSizes
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import InMemory, is_lazy, whole

LR_OPTIONS = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
DECAY_POWERS: Mapping[DecayRule, float] = {"trajectory": 1.0, "sqrt": 0.5, "keep": 0.0}
SAME = 1e-6  # of root mean squares in float32 weights


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ratios of new to old options; `eps` has one ratio for each number in that option, which may be a tuple."""

    lr: float
    eps: tuple[float, ...]
    weight_decay: float
    gradient: float  # of the gradient itself, for options in its units
    rounding: float = 0.0  # what torch's Adafactor takes for an ε₁ that is None


@dataclass(frozen=True)
class Origin:
    """Where a grown group comes from: the index of the old group, and the ratio of the learning rates, new to old."""

    group: int
    ratio: float


def with_rates(
    state: OptimizerState, growing: Growing, sizes: WeightSizes
) -> tuple[OptimizerState, tuple[Origin, ...]]:
    """The grown optimizer with its groups under the rule that is asked for, and each group's origin.

    Raises OptimizerError for an optimizer without an exact rule under `mup`, RequestError for such a growth.
    """
    if growing.request.rates == "keep":
        return state, tuple(Origin(index, 1.0) for index in range(len(state.groups)))
    groups: list[ParameterGroup] = []
    origins: list[Origin] = []
    records = dict(state.state)
    for index, group in enumerate(state.groups):
        row = row_of(state, group)
        parts: dict[Ratio, list[str]] = {}
        for name in group.names:
            ratio = _ratio(row, group.options, growing.descent_of[name], sizes)
            ratio = replace(ratio, weight_decay=_decay(ratio, row, group.options, growing.request.wd_rule))
            if "beta2_decay" in group.options:
                with at(name, OptimizerError):
                    _check_bound(group.options, records.get(name, {}), ratio.lr)
            parts.setdefault(ratio, []).append(name)
            if name in records and "update" in row.entries.values() and growing.request.moments == "algebra":
                records[name] = _with_updates(row, records[name], ratio.lr)
        for ratio, names in parts.items():
            options = _scaled_options(group.options, ratio, row)
            groups.append(ParameterGroup(options, tuple(names), has_param_names=True))
            origins.append(Origin(index, ratio.lr))
    return replace(state, groups=tuple(groups), state=records), tuple(origins)


def _decay(ratio: Ratio, row: OptimizerRow, options: Mapping[str, Any], rule: DecayRule) -> float:
    """Weight decay's ratio by a rule. Raises OptimizerError for a rule that is none for decay in the gradient."""
    is_in_gradient = row.lr == "gradient" or is_coupled(row, options)
    if rule != "trajectory" and is_in_gradient and options.get("weight_decay"):
        raise OptimizerError(
            f"{row.name} has its weight decay in the gradient, expected a decoupled one for ⟦wd_rule {rule}⟧; leave it "
            "out"
        )
    return ratio.weight_decay ** DECAY_POWERS[rule]


def _ratio(row: OptimizerRow, options: Mapping[str, Any], one: Descent, sizes: WeightSizes) -> Ratio:
    if row.lr == "none":
        raise OptimizerError(f"no lr rule known for {row.name}, expected a named one such as AdamW; use ⟦lr_rule keep⟧")
    sides = Sides.of(one.name, one.growth)
    sides = replace(sides, write_out=sides.write_out * one.share, read_out=sides.read_out * one.share_of_gradient)
    update, gradient = sides.update, sides.gradient
    coupled = gradient / update
    if row.lr == "gradient":
        return Ratio(lr=update / gradient, eps=(), weight_decay=coupled, gradient=gradient)
    if row.lr == "adafactor":
        return _adafactor(options, one, sides, sizes)
    if row.lr == "orthogonal":
        if len(one.growth.axes) != 2:
            raise OptimizerError(
                f"{one.name} of {row.name} has {len(one.growth.axes)} axes, expected a matrix; use ⟦lr_rule keep⟧"
            )
        spread = math.sqrt(sides.copies_out * sides.copies_in)
        lr = update * spread / _shape_factor(options.get("adjust_lr_fn"), one)
        return Ratio(lr=lr, eps=(gradient * spread,), weight_decay=1 / lr, gradient=gradient)
    if not is_coupled(row, options) or not options.get("weight_decay"):
        return Ratio(lr=update, eps=(gradient,), weight_decay=1 / update, gradient=gradient)
    if abs(sizes.ratio(one) - update) > SAME * update:
        raise OptimizerError(
            f"{row.name} with weight decay in the gradient has no exact lr rule unless all copies are equal, "
            "expected ⟦how tile⟧ ⟦separate none⟧, decoupled decay, or none; use ⟦lr_rule keep⟧"
        )
    return Ratio(lr=update, eps=(gradient,), weight_decay=coupled, gradient=gradient)


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


def _check_bound(options: Mapping[str, Any], record: Mapping[str, Any], ratio: float) -> None:
    """Raises OptimizerError where torch's Adafactor, whose learning rate is at most 1/√step, would ignore a ratio."""
    given = options["lr"], record.get("step", 0.0)
    rate, step = (float(whole(one)) if is_lazy(one) else float(one) for one in given)
    if ratio != 1 and max(rate, rate * ratio) > (step + 1) ** -0.5:
        raise OptimizerError(
            f"its learning rate {rate:.3g} is bounded by 1/√step from step {step:.0f} on, so one {ratio:.3g} "
            "times as large has no such effect, expected a smaller one or ⟦how tile⟧ without separation; use "
            "⟦lr_rule keep⟧"
        )


def _shape_factor(kind: str | None, one: Descent) -> float:
    """The ratio, new to old, of Muon's own factor on the learning rate."""
    new = tuple(axis.growth.num_new for axis in one.growth.axes)
    return _adjusted(kind, new) / _adjusted(kind, one.growth.old_shape)


def _adjusted(kind: str | None, shape: Sequence[int]) -> float:
    rows, columns = shape[:2]
    return math.sqrt(max(rows, columns)) if kind == "match_rms_adamw" else math.sqrt(max(1.0, rows / columns))


def _with_updates(row: OptimizerRow, record: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    return {
        key: scaled(value, ratio) if row.entries[key] == "update" and is_lazy(value) else value
        for key, value in record.items()
    }


def _scaled_options(options: Mapping[str, Any], ratio: Ratio, row: OptimizerRow) -> dict[str, Any]:
    scaled = {key: times(value, ratio.lr) if key in LR_OPTIONS else value for key, value in options.items()}
    eps = scaled.get("eps")
    if isinstance(eps, tuple | list):
        given = [
            ratio.rounding if one is None and factor != 1 else one for one, factor in zip(eps, ratio.eps, strict=True)
        ]
        scaled["eps"] = type(eps)(times(one, factor) for one, factor in zip(given, ratio.eps, strict=True))
    elif eps is not None:
        scaled["eps"] = times(eps, ratio.eps[0])
    if scaled.get("weight_decay"):
        scaled["weight_decay"] = times(scaled["weight_decay"], ratio.weight_decay)
    for option, power in row.also_scaled.items():
        scaled[option] = times(scaled[option], ratio.gradient**power)
    return scaled


def times(value: Any, factor: float) -> Any:
    """An option times a factor: a number, a tensor (capturable optimizers), or None (Adafactor sets its own)."""
    if is_lazy(value):
        return InMemory(torch.mul(whole(value), factor))
    return value if value is None or factor == 1 else value * factor  # a whole number stays one
