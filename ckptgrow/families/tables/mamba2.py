"""Mamba-2: layers of states alone, without attention or feed-forward units.

Source: Dao and Gu, "Transformers are SSMs", arXiv 2405.21060; transformers `Mamba2ForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, Tie
from ckptgrow.families.mamba_rows import FOLLOWS_HIDDEN, UNITS, mixer, state_sizes

LAYER = "backbone.layers.{layer}."

FAMILY = Family(
    model_type="mamba2",
    base_prefix="backbone.",
    num_layers="num_hidden_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        **state_sizes(heads="num_heads", head="head_dim", groups="n_groups", state="state_size", taps="conv_kernel"),
    },
    parameters=(
        Parameter("backbone.embeddings.weight", "vocab -> residual"),
        Parameter(LAYER + "norm.weight", "gain normed"),
        *mixer(LAYER + "mixer.", bias="use_bias", conv_bias="use_conv_bias"),
        Parameter("backbone.norm_f.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="backbone.embeddings.weight", default=False),
    units=UNITS,
    refusals=(FOLLOWS_HIDDEN, Refusal("heads", "its states' heads follow the hidden size; ⟦factor K⟧ multiplies both")),
)
