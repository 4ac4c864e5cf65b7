"""The optimizers whose state can be grown: one row each, data only.

A row says how a parameter group is recognised, what each entry of a parameter's record is in terms of its gradient g,
and by which rule learning rates keep the trajectory (`growth.rates`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptgrow.errors import OptimizerError, listing
from ckptgrow.state.optimizer_state import OptimizerState, ParameterGroup

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
LrKind = Literal["normalised", "gradient", "orthogonal", "adafactor", "none"]


@dataclass(frozen=True)
class Row:
    """One optimizer. A group is its own where it has all of `options` and none of `without`, and its parameters'
    records have no entries but `entries`.

    `coupled`: whether weight decay is added to the gradient (L2), where no option `decoupled_weight_decay` says it.
    Sources stand beside the rows.
    """

    name: str
    options: frozenset[str]
    entries: Mapping[str, Entry]
    lr: LrKind
    without: frozenset[str] = frozenset()
    coupled: bool = False
    also_scaled: Mapping[str, int] = field(default_factory=dict[str, int])  # options in powers of the gradient


_ADAM: Mapping[str, Entry] = {"exp_avg": "gradient", "exp_avg_sq": "square", "step": "step"}


def _row(name: str, options: str, entries: Mapping[str, Entry], lr: LrKind, without: str = "", **rest: Any) -> Row:
    return Row(name, frozenset(options.split()), entries, lr, frozenset(without.split()), **rest)


# The first row that fits is taken; what is more particular stands first.
ROWS: tuple[Row, ...] = (
    # Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016
    _row(
        "NAdam",
        "betas eps momentum_decay",
        {**_ADAM, "mu_product": "momentum product"},
        "normalised",
        coupled=True,
    ),
    # Kingma & Ba, arXiv 1412.6980; Loshchilov & Hutter, arXiv 1711.05101; Reddi, Kale & Kumar, arXiv 1904.09237
    _row(
        "Adam or AdamW",
        "betas eps amsgrad",
        {**_ADAM, "max_exp_avg_sq": "square"},
        "normalised",
        without="bias_correction",
    ),
    _row("AdamW of transformers", "betas eps correct_bias", _ADAM, "normalised"),
    # Kingma & Ba, arXiv 1412.6980, section 7.1
    _row(
        "Adamax",
        "betas eps capturable",
        {"exp_avg": "gradient", "exp_inf": "magnitude", "step": "step"},
        "normalised",
        without="decoupled_weight_decay",
        coupled=True,
    ),
    # Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv 1908.03265
    _row("RAdam", "betas eps decoupled_weight_decay", _ADAM, "normalised", coupled=True),
    # LAMB, fused Adams and others keep Adam's averages, but not always its update
    _row("an optimizer with Adam's averages", "betas eps", {**_ADAM, "max_exp_avg_sq": "square"}, "none"),
    # Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675
    _row("Lion", "betas", {"exp_avg": "gradient"}, "normalised", without="eps momentum"),
    # Duchi, Hazan & Singer, "Adaptive Subgradient Methods", JMLR 2011
    _row(
        "Adagrad",
        "lr_decay initial_accumulator_value eps",
        {"sum": "square", "step": "step"},
        "normalised",
        coupled=True,
        also_scaled={"initial_accumulator_value": 2},
    ),
    # Tieleman & Hinton, Coursera lecture 6e, 2012; centered: Graves, arXiv 1308.0850
    _row(
        "RMSprop",
        "alpha centered eps",
        {"square_avg": "square", "grad_avg": "gradient", "momentum_buffer": "direction", "step": "step"},
        "normalised",
        coupled=True,
    ),
    # Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
    _row("Muon", "momentum ns_coefficients ns_steps", {"momentum_buffer": "gradient"}, "orthogonal"),
    # Sutskever, Martens, Dahl & Hinton, ICML 2013
    _row("SGD", "momentum dampening nesterov", {"momentum_buffer": "gradient"}, "gradient", coupled=True),
    # Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv 1804.04235
    _row(
        "Adafactor",
        "beta2_decay d",
        {"row_var": "row", "col_var": "column", "variance": "square", "step": "step"},
        "adafactor",
    ),
    _row(
        "Adafactor of transformers",
        "decay_rate clip_threshold scale_parameter",
        {
            "exp_avg_sq_row": "row",
            "exp_avg_sq_col": "column",
            "exp_avg_sq": "square",
            "exp_avg": "update",
            "RMS": "weight size",
            "step": "step",
        },
        "adafactor",
    ),
)


def row_of(state: OptimizerState, group: ParameterGroup, where: str) -> Row:
    """The row of a group.

    Raises OptimizerError, naming the keys, where the records hold what no row with these options knows, or where the
    options belong to none.
    """
    keys = {key for name in group.names for key in state.state.get(name, {})}
    rows = [row for row in ROWS if row.options <= set(group.options) and not row.without & set(group.options)]
    fitting = next((row for row in rows if keys <= set(row.entries)), None)
    if fitting is not None:
        return fitting
    if rows:
        unknown = min((keys - set(row.entries) for row in rows), key=len)
        raise OptimizerError(
            f"{where}: no rule for the state {listing(unknown)}, expected {listing(rows[0].entries)} as in "
            f"{rows[0].name}; leave the optimizer out with --reset optimizer"
        )
    raise OptimizerError(
        f"{where}: no optimizer known with options {listing(_telling(group.options))} and state {listing(keys)}, "
        f"expected one of {listing((row.name for row in ROWS), limit=len(ROWS))}; leave it out with --reset optimizer"
    )


def is_coupled(row: Row, options: Mapping[str, Any]) -> bool:
    """Whether weight decay goes through the gradient; Adam groups that do not say so are taken for AdamW's."""
    decoupled = options.get("decoupled_weight_decay")
    return row.coupled if decoupled is None else not decoupled


def _telling(options: Collection[str]) -> list[str]:
    return [name for name in options if name not in ("lr", "initial_lr", "params", "weight_decay", "maximize", "fused")]
