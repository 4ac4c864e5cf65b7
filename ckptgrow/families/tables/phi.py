"""Phi: attention and feed-forward side by side behind one norm, partial rotary positions, a head with a bias.

Source: Li et al., "Textbooks Are All You Need II", arXiv 2309.05463; transformers `PhiForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Parameter, Size
from ckptgrow.families.rows import ATTENTION, EMBEDDING, LAYER, OF_SHARED_EPS, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="phi",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "head": Size(ratio=("residual", "heads"))},
    parameters=(
        EMBEDDING,
        *ATTENTION[:3],
        Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)"),
        Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)"),
        Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads! head)"),
        Parameter(LAYER + "self_attn.dense.weight", "residual <- (heads head)"),
        Parameter(LAYER + "self_attn.dense.bias", "residual"),
        Parameter(LAYER + "self_attn.q_layernorm.weight", "gain head", when="qk_layernorm"),
        Parameter(LAYER + "self_attn.q_layernorm.bias", "head", when="qk_layernorm"),
        Parameter(LAYER + "self_attn.k_layernorm.weight", "gain head", when="qk_layernorm"),
        Parameter(LAYER + "self_attn.k_layernorm.bias", "head", when="qk_layernorm"),
        Parameter(LAYER + "mlp.fc1.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.fc1.bias", "ffn!"),
        Parameter(LAYER + "mlp.fc2.weight", "residual <- ffn"),
        Parameter(LAYER + "mlp.fc2.bias", "residual"),
        Parameter(LAYER + "input_layernorm.weight", "gain normed"),
        Parameter(LAYER + "input_layernorm.bias", "normed"),
        Parameter("model.final_layernorm.weight", "gain final"),
        Parameter("model.final_layernorm.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
        Parameter("lm_head.bias", "vocab"),
    ),
    tie=TIE,
    padding=replace(OF_SHARED_EPS, norm="layer"),
    activation="hidden_act",
    dropout=("resid_pdrop", "embd_pdrop", "attention_dropout"),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
