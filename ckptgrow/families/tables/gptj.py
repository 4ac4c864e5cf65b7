"""GPT-J: attention and feed-forward side by side behind one norm, rotary positions of a width of their own.

Source: Wang & Komatsuzaki, "GPT-J-6B", 2021; transformers `GPTJForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Tie
from ckptgrow.families.tables.gpt2 import FAMILY as GPT2
from ckptgrow.families.task_rows import QUESTIONS, SEQUENCE, VALUES

LAYER = "transformer.h.{layer}."

NORM = (
    Parameter(LAYER + "ln_1.weight", "gain normed"),
    Parameter(LAYER + "ln_1.bias", "normed"),
)
REST = (
    Parameter(LAYER + "attn.out_proj.weight", "residual <- (heads head)"),
    Parameter(LAYER + "mlp.fc_in.weight", "ffn! <- normed"),
    Parameter(LAYER + "mlp.fc_in.bias", "ffn!"),
    Parameter(LAYER + "mlp.fc_out.weight", "residual <- ffn"),
    Parameter(LAYER + "mlp.fc_out.bias", "residual"),
    Parameter("transformer.ln_f.weight", "gain final"),
    Parameter("transformer.ln_f.bias", "final"),
    Parameter("lm_head.weight", "vocab <- final"),
    Parameter("lm_head.bias", "vocab"),
)

FAMILY = Family(
    model_type="gptj",
    base_prefix="transformer.",
    num_layers="n_layer",
    sizes={space: size for space, size in GPT2.sizes.items() if space != "position"},
    parameters=(
        Parameter("transformer.wte.weight", "vocab -> residual"),
        *NORM,
        Parameter(LAYER + "attn.k_proj.weight", "(heads head) <- normed"),
        Parameter(LAYER + "attn.v_proj.weight", "(heads! head) <- normed"),
        Parameter(LAYER + "attn.q_proj.weight", "(heads head) <- normed"),
        *REST,
    ),
    tie=Tie(head="lm_head.weight", embedding="transformer.wte.weight", default=False),
    buffers=(LAYER + "attn.bias", LAYER + "attn.masked_bias"),
    longest="n_positions",
    padding=GPT2.padding,
    activation=GPT2.activation,
    dropout=GPT2.dropout,
    aliases=GPT2.aliases,
    tasks=(SEQUENCE, QUESTIONS, VALUES),
)
