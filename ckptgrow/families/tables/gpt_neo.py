"""GPT-Neo: GPT-2's blocks with linear layers, unscaled scores, and windows in layers that its config lists.

Source: Black et al., "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow", 2021, DOI
10.5281/zenodo.5297715; transformers `GPTNeoForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size, Tie
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS, QUESTIONS, SEQUENCE, VALUES

LAYER = "transformer.h.{layer}."
ATTENTION = LAYER + "attn.attention."

FAMILY = Family(
    model_type="gpt_neo",
    base_prefix="transformer.",
    num_layers="num_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "position": Size(config="max_position_embeddings"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="num_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="intermediate_size", times=(4, "residual")),
    },
    parameters=(
        Parameter("transformer.wte.weight", "vocab -> residual"),
        Parameter("transformer.wpe.weight", "position -> residual"),
        Parameter(LAYER + "ln_1.weight", "gain normed"),
        Parameter(LAYER + "ln_1.bias", "normed"),
        Parameter(ATTENTION + "k_proj.weight", "(heads head) <- normed"),
        Parameter(ATTENTION + "v_proj.weight", "(heads! head) <- normed"),
        Parameter(ATTENTION + "q_proj.weight", "(heads head) <- normed"),
        Parameter(ATTENTION + "out_proj.weight", "residual <- (heads head)"),
        Parameter(ATTENTION + "out_proj.bias", "residual"),
        Parameter(LAYER + "ln_2.weight", "gain normed"),
        Parameter(LAYER + "ln_2.bias", "normed"),
        Parameter(LAYER + "mlp.c_fc.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.c_fc.bias", "ffn!"),
        Parameter(LAYER + "mlp.c_proj.weight", "residual <- ffn"),
        Parameter(LAYER + "mlp.c_proj.bias", "residual"),
        Parameter("transformer.ln_f.weight", "gain final"),
        Parameter("transformer.ln_f.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="transformer.wte.weight"),
    buffers=(ATTENTION + "bias", ATTENTION + "masked_bias"),
    padding=Padding("layer", "layer_norm_epsilon"),
    activation="activation_function",
    dropout=("resid_dropout", "embed_dropout", "attention_dropout"),
    layer_lists=("attention_layers",),
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    tasks=(SEQUENCE, CLASSIFIED_TOKENS, QUESTIONS, VALUES),
)
