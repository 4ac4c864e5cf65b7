"""GPT-J: attention and feed-forward side by side behind one norm, rotary positions of a width of their own.

Source: Wang & Komatsuzaki, "GPT-J-6B", 2021; transformers `GPTJForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size, Tie
from ckptgrow.families.task_rows import QUESTIONS, SEQUENCE, VALUES

LAYER = "transformer.h.{layer}."

SIZES = {
    "vocab": Size(config="vocab_size"),
    "position": Size(config="n_positions"),
    "residual": Size(config="n_embd"),
    "normed": Size(same="residual"),
    "final": Size(same="residual"),
    "heads": Size(config="n_head"),
    "head": Size(ratio=("residual", "heads")),
    "ffn": Size(config="n_inner", times=(4, "residual")),
}
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
    sizes=SIZES,
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
    padding=Padding("layer", "layer_norm_epsilon"),
    activation="activation_function",
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    tasks=(SEQUENCE, QUESTIONS, VALUES),
)
