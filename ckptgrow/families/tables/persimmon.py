"""Persimmon: queries, keys and values by head in one tensor, norms over each head, squared ReLU without a gate.

Source: Elsen et al., "Releasing Persimmon-8B", 2023; transformers `PersimmonForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Parameter, Size
from ckptgrow.families.rows import EMBEDDING, LAYER, NORM_BIASES, NORMS, OF_SHARED_EPS, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

ATTENTION = LAYER + "self_attn."

FAMILY = Family(
    model_type="persimmon",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **{space: size for space, size in SIZES.items() if space != "kv_heads"},
        "head": Size(ratio=("residual", "heads")),
    },
    parameters=(
        EMBEDDING,
        Parameter(ATTENTION + "query_key_value.weight", "(heads 3! head) <- normed"),
        Parameter(ATTENTION + "query_key_value.bias", "(heads 3! head)"),
        Parameter(ATTENTION + "dense.weight", "residual <- (heads head)"),
        Parameter(ATTENTION + "dense.bias", "residual"),
        Parameter(ATTENTION + "q_layernorm.weight", "gain head", when="qk_layernorm"),
        Parameter(ATTENTION + "q_layernorm.bias", "head", when="qk_layernorm"),
        Parameter(ATTENTION + "k_layernorm.weight", "gain head", when="qk_layernorm"),
        Parameter(ATTENTION + "k_layernorm.bias", "head", when="qk_layernorm"),
        Parameter(LAYER + "mlp.dense_h_to_4h.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.dense_h_to_4h.bias", "ffn!"),
        Parameter(LAYER + "mlp.dense_4h_to_h.weight", "residual <- ffn"),
        Parameter(LAYER + "mlp.dense_4h_to_h.bias", "residual"),
        *NORMS,
        *NORM_BIASES,
        Parameter("model.final_layernorm.weight", "gain final"),
        Parameter("model.final_layernorm.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=TIE,
    padding=replace(OF_SHARED_EPS, norm="layer"),
    activation="hidden_act",
    dropout=("hidden_dropout", "attention_dropout"),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
