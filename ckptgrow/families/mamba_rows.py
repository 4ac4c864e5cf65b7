"""Rows of Mamba-2's layers, which several families share.

A layer's state holds a matrix for each of its heads; heads of one group share what writes and reads it. Copies of all
heads come with copies of all groups, so that each copy of a head has its own copy of a group. A gated norm runs over
the heads of a group, or over all, in which whole copies weigh the same. The sizes of heads and states stay.

Source: Dao and Gu, "Transformers are SSMs", arXiv 2405.21060; transformers `Mamba2Mixer`.
"""

from ckptgrow.families.family import Parameter, Refusal, Size
from ckptgrow.families.rows import LAYER, SIZES

UNITS = ("state_heads", "groups")  # which grow where everything does
CHANNELS = "state_heads state_head + groups state + groups state"
FOLLOWS_HIDDEN = Refusal(
    "hidden",
    "the number of its states' heads follows the hidden size, and a norm runs over them; ⟦factor K⟧ multiplies it",
)


FEED_FORWARD = LAYER + "feed_forward."
FEED_FORWARD_PART = (
    Parameter(FEED_FORWARD + "gate_proj.weight", "ffn <- normed"),
    Parameter(FEED_FORWARD + "gate_proj.bias", "ffn", when="mlp_bias"),
    Parameter(FEED_FORWARD + "up_proj.weight", "ffn! <- normed"),
    Parameter(FEED_FORWARD + "up_proj.bias", "ffn!", when="mlp_bias"),
    Parameter(FEED_FORWARD + "down_proj.weight", "residual <- ffn"),
    Parameter(FEED_FORWARD + "down_proj.bias", "residual", when="mlp_bias"),
)
NORMS_BEFORE_PARTS = (
    Parameter(LAYER + "input_layernorm.weight", "gain normed"),
    Parameter(LAYER + "pre_ff_layernorm.weight", "gain normed"),
)
FINAL_LAYERNORM = (
    Parameter("model.final_layernorm.weight", "gain final"),
    Parameter("lm_head.weight", "vocab <- final"),
)


def sizes_with_states(inner: Size) -> dict[str, Size]:
    """The sizes of models that have attention too, whose config fields of states begin with `mamba_`; `inner`: that of
    all heads of a state.
    """
    states = state_sizes(
        heads="mamba_n_heads",
        head="mamba_d_head",
        groups="mamba_n_groups",
        state="mamba_d_state",
        taps="mamba_d_conv",
        inner=inner,
    )
    return {**SIZES, **states}


def state_sizes(
    *, heads: str, head: str, groups: str, state: str, taps: str, inner: Size | None = None
) -> dict[str, Size]:
    """The sizes by their config fields; `inner`, that of all heads, is for configs that may leave out a head's."""
    sizes = {
        "state_heads": Size(config=heads),
        "groups": Size(config=groups),
        "state": Size(config=state),
        "taps": Size(config=taps),
    }
    if inner is None:
        return {**sizes, "state_head": Size(config=head)}
    derived = Size(config=head, ratio=("inner", "state_heads"))
    return {**sizes, "expansion": Size(config="mamba_expand"), "inner": inner, "state_head": derived}


def mixer(
    module: str,
    *,
    bias: str,
    conv_bias: str,
    out_bias: str | None = None,
    norm: str | None = None,
    layers: str = "all",
) -> tuple[Parameter, ...]:
    """A layer's rows; `bias`, `conv_bias`, `out_bias`, `norm`: the config fields that say whether there is one."""

    def row(name: str, layout: str, when: str | None = None) -> Parameter:
        return Parameter(module + name, layout, when=when, layers=layers)

    fused = f"(state_heads! state_head + {CHANNELS} + state_heads)"
    return (
        row("dt_bias", "state_heads"),
        row("A_log", "state_heads"),
        row("D", "state_heads"),
        row("conv1d.weight", f"({CHANNELS}) <- 1 taps"),
        row("conv1d.bias", f"({CHANNELS})", conv_bias),
        row("in_proj.weight", fused + " <- normed"),
        row("in_proj.bias", fused, bias),
        row("norm.weight", "gain (state_heads state_head)", norm),
        row("out_proj.weight", "residual <- (state_heads state_head)"),
        row("out_proj.bias", "residual", out_bias or bias),
    )
