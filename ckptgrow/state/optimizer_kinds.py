"""Recognises optimizers by their groups and records: one name for each, and the meaning of its records' entries.

Growth, verification and inspection all ask here to which optimizer a group belongs. What follows from the answer is in
two places, so that one can judge the other: how learning rates grow in `growth.training.optimizer_table`, and what
steps and scales must be in `verification.optimizers`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup

# What an entry of a parameter's record is in terms of the parameter's gradient g.
Entry = Literal[
    "gradient",  # linear in g
    "square",  # in g²
    "magnitude",  # in |g|
    "direction",  # of no size: g over its own size
    "row",  # g² averaged over the last axis, which is gone or of size 1
    "column",  # g² averaged over the last axis but one
    "update",  # what is added to the weight, learning rate included
    "weight size",  # the weight's root mean square
    "step",  # how many gradients were seen
    "momentum product",  # Π μ_t of NAdam: a function of the step
]


@dataclass(frozen=True)
class Sign:
    """By what a group is recognised: it has all of `options`, none of `without`, and these `values`; its parameters'
    records have all of `keys`.
    """

    options: frozenset[str]
    without: frozenset[str] = frozenset()
    values: Mapping[str, object] = field(default_factory=dict[str, object])
    keys: frozenset[str] = frozenset()

    def fits(self, options: Mapping[str, Any], keys: Collection[str]) -> bool:
        """Whether a group with these options and these keys in its records shows the sign."""
        has_options = self.options <= options.keys() and not self.without & options.keys()
        has_values = all(options.get(name) == value for name, value in self.values.items())
        return has_options and has_values and self.keys <= set(keys)


@dataclass(frozen=True)
class OptimizerKind:
    """One optimizer: any of the signs shows it, and its records have no entries but `entries`."""

    name: str
    entries: Mapping[str, Entry]
    signs: tuple[Sign, ...]

    def is_shown_by(self, options: Mapping[str, Any], keys: Collection[str]) -> bool:
        """Whether a sign fits, whatever else the records hold."""
        return any(sign.fits(options, keys) for sign in self.signs)


def recognised(options: Mapping[str, Any], keys: Collection[str] = ()) -> OptimizerKind | None:
    """The optimizer of a group with these options, whose parameters' records have these keys.

    >>> recognised({"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False}, {"momentum_buffer"}).name
    'SGD'
    """
    return next((kind for kind in shown_by(options, keys) if set(keys) <= kind.entries.keys()), None)


def shown_by(options: Mapping[str, Any], keys: Collection[str] = ()) -> list[OptimizerKind]:
    """The kinds whose signs fit, the most particular first, though records may hold what these kinds do not know."""
    return [kind for kind in KINDS if kind.is_shown_by(options, keys)]


def keys_in(state: OptimizerState, group: ParameterGroup) -> set[str]:
    """All keys in the records of a group's parameters."""
    return {key for name in group.names for key in state.state.get(name, {})}


def name_of(state: OptimizerState) -> str | None:
    """The optimizer by its first group, by the options alone where its records hold what no kind knows."""
    if not state.groups:
        return None
    first = state.groups[0]
    kind = recognised(first.options, keys_in(state, first)) or recognised(first.options)
    return kind and kind.name


def _sign(options: str, without: str = "", *, keys: str = "", **values: object) -> Sign:
    return Sign(frozenset(options.split()), frozenset(without.split()), values, frozenset(keys.split()))


_ADAM: Mapping[str, Entry] = {"exp_avg": "gradient", "exp_avg_sq": "square", "step": "step"}
_AMSGRAD: Mapping[str, Entry] = {**_ADAM, "max_exp_avg_sq": "square"}

# The first kind that fits is taken; what is more particular stands first.
KINDS: tuple[OptimizerKind, ...] = (
    # Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016
    OptimizerKind("NAdam", {**_ADAM, "mu_product": "momentum product"}, (_sign("betas eps momentum_decay"),)),
    # Kingma & Ba, arXiv 1412.6980; Reddi, Kale & Kumar, arXiv 1904.09237
    OptimizerKind(
        "Adam", _AMSGRAD, (_sign("betas eps amsgrad", without="bias_correction", decoupled_weight_decay=False),)
    ),
    # Loshchilov & Hutter, arXiv 1711.05101; Adam too, as torch before 2.6 wrote both alike
    OptimizerKind("AdamW", _AMSGRAD, (_sign("betas eps amsgrad", without="bias_correction"),)),
    OptimizerKind("AdamW of transformers", _ADAM, (_sign("betas eps correct_bias"),)),
    # Adam or AdamW, which its groups do not say: deepspeed/ops/adam/cpu_adam.py
    OptimizerKind("DeepSpeedCPUAdam", _ADAM, (_sign("betas eps amsgrad bias_correction"),)),
    # You et al., "Large Batch Optimization for Deep Learning", arXiv 1904.00962, as apex and timm have it (they average
    # the gradient), and as DeepSpeed does (its trust ratio is bounded)
    OptimizerKind(
        "LAMB",
        _ADAM,
        (_sign("betas eps max_grad_norm grad_averaging"), _sign("betas eps max_grad_norm max_coeff min_coeff")),
    ),
    # apex's, DeepSpeed's and Transformer Engine's: Adam or AdamW, which their groups do not say
    OptimizerKind("FusedAdam", _ADAM, (_sign("betas eps bias_correction", without="grad_averaging"),)),
    # Kingma & Ba, arXiv 1412.6980, section 7.1; torch before 2.2 wrote no `capturable`
    OptimizerKind(
        "Adamax",
        {"exp_avg": "gradient", "exp_inf": "magnitude", "step": "step"},
        (
            _sign("betas eps capturable", without="decoupled_weight_decay amsgrad"),
            _sign("betas eps", without="amsgrad", keys="exp_inf"),
        ),
    ),
    # Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv 1908.03265
    OptimizerKind("RAdam", _ADAM, (_sign("betas eps decoupled_weight_decay"),)),
    # others keep Adam's averages, but not always its update
    OptimizerKind("an optimizer with Adam's averages", _AMSGRAD, (_sign("betas eps"),)),
    # Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675
    OptimizerKind("Lion", {"exp_avg": "gradient"}, (_sign("betas", without="eps momentum"),)),
    # Duchi, Hazan & Singer, "Adaptive Subgradient Methods", JMLR 2011
    OptimizerKind("Adagrad", {"sum": "square", "step": "step"}, (_sign("lr_decay initial_accumulator_value eps"),)),
    # Tieleman & Hinton, Coursera lecture 6e, 2012; centered: Graves, arXiv 1308.0850
    OptimizerKind(
        "RMSprop",
        {"square_avg": "square", "grad_avg": "gradient", "momentum_buffer": "direction", "step": "step"},
        (_sign("alpha centered eps"),),
    ),
    # Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
    OptimizerKind("Muon", {"momentum_buffer": "gradient"}, (_sign("momentum ns_coefficients ns_steps"),)),
    # Sutskever, Martens, Dahl & Hinton, ICML 2013
    OptimizerKind("SGD", {"momentum_buffer": "gradient"}, (_sign("momentum dampening nesterov"),)),
    # Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv 1804.04235
    OptimizerKind(
        "Adafactor",
        {"row_var": "row", "col_var": "column", "variance": "square", "step": "step"},
        (_sign("beta2_decay d"),),
    ),
    OptimizerKind(
        "Adafactor of transformers",
        {
            "exp_avg_sq_row": "row",
            "exp_avg_sq_col": "column",
            "exp_avg_sq": "square",
            "exp_avg": "update",
            "RMS": "weight size",
            "step": "step",
        },
        (_sign("decay_rate clip_threshold scale_parameter"),),
    ),
)
