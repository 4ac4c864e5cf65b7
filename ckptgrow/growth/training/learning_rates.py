"""Learning rates after growth.

`keep` leaves every group as it is: effective matrices then move faster. `mup` keeps the trajectory: in the subspace in
which the copies agree, the grown model's updates are the old ones. With n the number of copies, f the write and b the
read of a tensor's output and input spaces, an entry's update must change by u = f_out / (n_in · f_in), and its gradient
changes by s = b_out · f_in. What an optimizer makes of s decides:

    normalised       the update has no size of the gradient (Adam, NAdam, RAdam after its first steps, Adamax, Adagrad,
                     RMSprop, Adan, Lion's sign):     lr'/lr = u            eps'/eps = s
    gradient         the update is the gradient (SGD, momentum):
                                                      lr'/lr = u / s = n_out · f_out² / (n_in · f_in²)
    orthogonal       the update U·Vᵀ has entries 1/√(n_out · n_in) as large (Muon, on hidden matrices 1):
                                                      lr'/lr = u · √(n_out · n_in) · a/a'    with a its factor by shape
                                                      eps'/eps = s · √(n_out · n_in)         of the Frobenius norm
    Adafactor        the update is normalised, and may be as large as the weight, whose root mean square changes by r:
                                                      lr'/lr = u / r        ε₂'/ε₂ = r       ε₁ with the gradient
    bases            the update is normalised in eigenbases, in which n copies are one coordinate (SOAP):
                                                      lr'/lr = u · √n        eps'/eps = s · √n    n over axes with one
    trust            the update is as large as the weight (LAMB):
                                                      lr'/lr = u / r        eps'/eps = s
    layer scale      one rate for all groups, and a factor of each group's (D-Adaptation):
                                                      scale'/scale = u      eps'/eps = s
    curvature        the gradient over a squared gradient, times 1/ρ (Sophia):
                                                      lr'/lr = u            ρ'/ρ = 1/s
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

Averages of updates (Adafactor's β₁) carry their learning rate with them and are scaled along, and so are the sums by
which schedule-free optimizers average weights: each step counts in them by a power of its rate.

Source: derived here from equal function and equal update; the width scaling is that of Yang & Hu et al., "Tensor
Programs V", arXiv 2203.03466. Muon's factors by shape: Liu et al., "Muon is Scalable", arXiv 2502.16982.
wd ∝ √width: Fan et al., "Robust Layerwise Scaling Rules by Proper Weight Decay Tuning", arXiv 2510.15262.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ckptgrow.choices import DecayRule
from ckptgrow.errors import OptimizerError, at
from ckptgrow.growth.growing import Growing
from ckptgrow.growth.tensors.grown_tensors import scaled
from ckptgrow.growth.training.optimizer_table import OptimizerRow, is_coupled, row_of
from ckptgrow.growth.training.update_ratios import Ratio, ratio_of
from ckptgrow.growth.training.weight_sizes import WeightSizes
from ckptgrow.state.optimizer_kinds import Entry
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup
from ckptgrow.storage.tensors import InMemory, is_lazy, whole

LR_OPTIONS = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
DECAY_POWERS: Mapping[DecayRule, float] = {"trajectory": 1.0, "sqrt": 0.5, "keep": 0.0}


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
            ratio = ratio_of(row, group.options, growing.descent_of[name], sizes)
            ratio = replace(ratio, weight_decay=_decay(ratio, row, group.options, growing.request.wd_rule))
            if "beta2_decay" in group.options:
                with at(name, OptimizerError):
                    _check_bound(group.options, records.get(name, {}), ratio.lr)
            parts.setdefault(ratio, []).append(name)
            if name in records and growing.request.moments == "algebra":
                records[name] = _with_updates(row, records[name], {"update": ratio.lr, "scaled gradient": ratio.update})
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


def _with_updates(row: OptimizerRow, record: Mapping[str, Any], factors: Mapping[Entry, float]) -> Mapping[str, Any]:
    """A record whose averages of updates follow the options that their size is in units of."""
    if not factors.keys() & row.entries.values():
        return record
    return {
        key: scaled(value, factor) if (factor := factors.get(row.entries[key], 1.0)) != 1 and is_lazy(value) else value
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
    elif eps is not None and ratio.eps:  # SGD of bitsandbytes has one that it does not use
        scaled["eps"] = times(eps, ratio.eps[0])
    if scaled.get("weight_decay"):
        scaled["weight_decay"] = times(scaled["weight_decay"], ratio.weight_decay)
    for option, power in row.also_scaled.items():
        rate = options[power.rate] if isinstance(power.rate, str) else power.rate
        factor = ratio.gradient**power.gradient * ratio.lr**rate * ratio.update**power.update
        scaled[option] = times(scaled[option], factor)
    return scaled


def times(value: Any, factor: float) -> Any:
    """An option times a factor: a number, a tensor (capturable optimizers), or None (Adafactor sets its own)."""
    if is_lazy(value):
        return InMemory(torch.mul(whole(value), factor))
    return value if value is None or factor == 1 else value * factor  # a whole number stays one
