"""Recognises optimizers by their groups and records: one name for each, and the meaning of its records' entries.

Growth, verification and inspection all ask here to which optimizer a group belongs. What follows from the answer is in
two places, so that one can judge the other: how learning rates grow in `growth.training.optimizer_table`, and what
steps and scales must be in `verification.optimizers`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptgrow.formats.bitsandbytes_records import CODE_MAPS
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
    "scaled gradient",  # linear in g, times an option of its group that says how large the layer's updates are
    "weight",  # another point in the space of weights, which grows as the weight does
    "products",  # of g with itself along each axis: a list of matrices, empty where an axis has none
    "bases",  # their orthonormal eigenvectors, likewise
    "square in bases",  # in the square of g, turned into these bases
    "row of directions",  # the mean of squares along the last axis of a matrix without the gradient's size
    "reading",  # what the last step measured and the next one measures anew
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


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """One optimizer: any of the signs shows it, and its records have no entries but `entries`.

    `clock`: the option of a group that counts its steps, where one does; `begins_without`: a parameter that has seen no
    gradient has no record, because zeros would not be what the optimizer begins with.
    """

    name: str
    entries: Mapping[str, Entry]
    signs: tuple[Sign, ...]
    clock: str | None = None
    begins_without: bool = False

    def is_shown_by(self, options: Mapping[str, Any], keys: Collection[str]) -> bool:
        """Whether a sign fits, whatever else the records hold."""
        return any(sign.fits(options, keys) for sign in self.signs)


def recognised(options: Mapping[str, Any], keys: Collection[str] = ()) -> OptimizerKind | None:
    """The optimizer of a group with these options, whose parameters' records have these keys, and maybe maps of 8 bits.

    >>> recognised({"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False}, {"momentum_buffer"}).name
    'SGD'
    """
    own = set(keys) - set(CODE_MAPS)
    return next((kind for kind in shown_by(options, keys) if own <= kind.entries.keys()), None)


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
_READ_BY_LAMB: Mapping[str, Entry] = dict.fromkeys(("weight_norm", "adam_norm", "trust_ratio"), "reading")
_AMSGRAD: Mapping[str, Entry] = {**_ADAM, "max_exp_avg_sq": "square"}

# The first kind that fits is taken; what is more particular stands first.
KINDS: tuple[OptimizerKind, ...] = (
    # Defazio et al., "The Road Less Scheduled", arXiv 2405.15682: schedulefree's three
    OptimizerKind(
        name="AdamWScheduleFree",
        entries={"z": "weight", "exp_avg_sq": "square"},
        signs=(_sign("betas eps k weight_sum lr_max warmup_steps", without="silent_sgd_phase"),),
        clock="k",
        begins_without=True,
    ),
    OptimizerKind(
        name="RAdamScheduleFree",
        entries={"z": "weight", "exp_avg_sq": "square"},
        signs=(_sign("betas eps k weight_sum lr_max silent_sgd_phase"),),
        clock="k",
        begins_without=True,
    ),
    OptimizerKind(
        name="SGDScheduleFree",
        entries={"z": "weight"},
        signs=(_sign("momentum k weight_sum lr_max warmup_steps"),),
        clock="k",
        begins_without=True,
    ),
    # Mishchenko & Defazio, "Prodigy", arXiv 2306.06101: p0 is where the weight began, s its sum of gradients
    OptimizerKind(
        name="Prodigy",
        entries={**_ADAM, "s": "gradient", "p0": "weight"},
        signs=(_sign("betas eps d d0 d_max d_numerator k"),),
        clock="k",
        begins_without=True,
    ),
    # Defazio & Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv 2301.07733
    OptimizerKind(
        name="DAdaptAdam",
        entries={**_ADAM, "exp_avg": "scaled gradient", "s": "gradient"},
        signs=(_sign("betas eps d k layer_scale numerator_weighted"),),
        clock="k",
        begins_without=True,
    ),
    # Xie et al., "Adan", arXiv 2208.06677, as pytorch-optimizer, and as its authors and timm have it
    OptimizerKind(
        name="Adan",
        entries={
            **_ADAM,
            "exp_avg_diff": "gradient",
            "previous_grad": "gradient",
            "neg_pre_grad": "gradient",
        },
        signs=(
            _sign("betas eps weight_decouple max_grad_norm", without="grad_averaging"),
            _sign("betas eps no_prox"),
        ),
        clock="step",
        begins_without=True,
    ),
    # Vyas et al., "SOAP", arXiv 2409.11321, as its authors and pytorch-optimizer have it: averages of g as it is,
    # squares in the eigenbases
    OptimizerKind(
        name="SOAP",
        entries={
            **_ADAM,
            "exp_avg_sq": "square in bases",
            "GG": "products",
            "Q": "bases",
            "precondition_frequency": "reading",
            "shampoo_beta": "reading",
        },
        signs=(_sign("betas eps precondition_frequency precondition_1d merge_dims"),),
        clock="step",
        begins_without=True,
    ),
    # Liu et al., "Sophia", arXiv 2305.14342: the Gauss-Newton-Bartlett estimate of the curvature is a squared gradient
    OptimizerKind(
        name="SophiaG",
        entries={"exp_avg": "gradient", "hessian": "square", "step": "step"},
        signs=(_sign("betas rho"),),
    ),
    # Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv 2110.02861: bitsandbytes' Adam and AdamW,
    # steps are AdamW's; those with one average, by the options that their classes fix
    OptimizerKind(
        name="AdamW of bitsandbytes", entries=_ADAM, signs=(_sign("betas eps t_alpha t_beta3", without="amsgrad"),)
    ),
    OptimizerKind(
        name="SGD of bitsandbytes",
        entries={"momentum_buffer": "gradient", "step": "step"},
        signs=(_sign("betas eps", keys="momentum_buffer", eps=0.0),),
    ),
    OptimizerKind(
        name="Lion of bitsandbytes",
        entries={"exp_avg": "gradient", "step": "step"},
        signs=(_sign("betas eps", keys="exp_avg", eps=0.0),),
    ),
    OptimizerKind(
        name="RMSprop of bitsandbytes",
        entries={"square_avg": "square", "step": "step"},
        signs=(_sign("betas eps", keys="square_avg"),),
    ),
    OptimizerKind(
        name="Adagrad of bitsandbytes",
        entries={"sum": "square", "step": "step"},
        signs=(_sign("betas eps", keys="sum"),),
    ),
    # Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016
    OptimizerKind(
        name="NAdam", entries={**_ADAM, "mu_product": "momentum product"}, signs=(_sign("betas eps momentum_decay"),)
    ),
    # Kingma & Ba, arXiv 1412.6980; Reddi, Kale & Kumar, arXiv 1904.09237
    OptimizerKind(
        name="Adam",
        entries=_AMSGRAD,
        signs=(_sign("betas eps amsgrad", without="bias_correction", decoupled_weight_decay=False),),
    ),
    # Loshchilov & Hutter, arXiv 1711.05101; Adam too, as torch before 2.6 wrote both alike
    OptimizerKind(name="AdamW", entries=_AMSGRAD, signs=(_sign("betas eps amsgrad", without="bias_correction"),)),
    OptimizerKind(name="AdamW of transformers", entries=_ADAM, signs=(_sign("betas eps correct_bias"),)),
    # Adam or AdamW, which its groups do not say: deepspeed/ops/adam/cpu_adam.py
    OptimizerKind(name="DeepSpeedCPUAdam", entries=_ADAM, signs=(_sign("betas eps amsgrad bias_correction"),)),
    # You et al., "Large Batch Optimization for Deep Learning", arXiv 1904.00962, as apex and timm have it (they average
    # the gradient), and as DeepSpeed does (its trust ratio is bounded)
    OptimizerKind(
        name="LAMB",
        entries={**_ADAM, **_READ_BY_LAMB},
        signs=(_sign("betas eps max_grad_norm grad_averaging"), _sign("betas eps max_grad_norm max_coeff min_coeff")),
        clock="step",
        begins_without=True,
    ),
    # apex's, DeepSpeed's and Transformer Engine's: Adam or AdamW, which their groups do not say
    OptimizerKind(
        name="FusedAdam",
        entries=_ADAM,
        signs=(_sign("betas eps bias_correction", without="grad_averaging"),),
        clock="step",
    ),
    # Kingma & Ba, arXiv 1412.6980, section 7.1; torch before 2.2 wrote no `capturable`
    OptimizerKind(
        name="Adamax",
        entries={"exp_avg": "gradient", "exp_inf": "magnitude", "step": "step"},
        signs=(
            _sign("betas eps capturable", without="decoupled_weight_decay amsgrad"),
            _sign("betas eps", without="amsgrad", keys="exp_inf"),
        ),
    ),
    # Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv 1908.03265
    OptimizerKind(name="RAdam", entries=_ADAM, signs=(_sign("betas eps decoupled_weight_decay"),)),
    OptimizerKind(
        name="AdamW beside Muon",
        entries=_ADAM,
        signs=(_sign("betas eps weight_decouple use_muon", use_muon=False),),
        clock="step",
        begins_without=True,
    ),
    # others keep Adam's averages, but not always its update
    OptimizerKind(name="an optimizer with Adam's averages", entries=_AMSGRAD, signs=(_sign("betas eps"),)),
    # Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675
    OptimizerKind(name="Lion", entries={"exp_avg": "gradient"}, signs=(_sign("betas", without="eps momentum"),)),
    # Duchi, Hazan & Singer, "Adaptive Subgradient Methods", JMLR 2011
    OptimizerKind(
        name="Adagrad",
        entries={"sum": "square", "step": "step"},
        signs=(_sign("lr_decay initial_accumulator_value eps"),),
    ),
    # Tieleman & Hinton, Coursera lecture 6e, 2012; centered: Graves, arXiv 1308.0850
    OptimizerKind(
        name="RMSprop",
        entries={"square_avg": "square", "grad_avg": "gradient", "momentum_buffer": "direction", "step": "step"},
        signs=(_sign("alpha centered eps"),),
    ),
    # Li et al., "NorMuon", arXiv 2510.05491, as pytorch-optimizer has it, and the AdamW of its other groups
    OptimizerKind(
        name="NorMuon",
        entries={"momentum_buffer": "gradient", "second_momentum_buffer": "row of directions"},
        signs=(_sign("momentum beta2 ns_coeffs update_scale"),),
        clock="step",
        begins_without=True,
    ),
    # Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
    OptimizerKind(
        name="Muon", entries={"momentum_buffer": "gradient"}, signs=(_sign("momentum ns_coefficients ns_steps"),)
    ),
    # Sutskever, Martens, Dahl & Hinton, ICML 2013
    OptimizerKind(name="SGD", entries={"momentum_buffer": "gradient"}, signs=(_sign("momentum dampening nesterov"),)),
    # Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv 1804.04235
    OptimizerKind(
        name="Adafactor",
        entries={"row_var": "row", "col_var": "column", "variance": "square", "step": "step"},
        signs=(_sign("beta2_decay d"),),
    ),
    OptimizerKind(
        name="Adafactor of transformers",
        entries={
            "exp_avg_sq_row": "row",
            "exp_avg_sq_col": "column",
            "exp_avg_sq": "square",
            "exp_avg": "update",
            "RMS": "weight size",
            "step": "step",
        },
        signs=(_sign("decay_rate clip_threshold scale_parameter"),),
    ),
)
