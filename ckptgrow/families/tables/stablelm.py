"""StableLM: Llama's blocks with LayerNorm and partial rotary positions; attention and feed-forward may be parallel.

Source: Bellagente et al., "Stable LM 2 1.6B Technical Report", arXiv 2402.17834; transformers `StableLmForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Refusal, Size
from ckptgrow.families.rows import ATTENTION, EMBEDDING, FINAL, GATED_FFN, INVERSE_FREQUENCIES, LAYER, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="stablelm",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "head": Size(ratio=("residual", "heads"))},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)", when="use_qkv_bias"),
        Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)", when="use_qkv_bias"),
        Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads! head)", when="use_qkv_bias"),
        *GATED_FFN,
        Parameter(LAYER + "input_layernorm.weight", "gain normed"),
        Parameter(LAYER + "input_layernorm.bias", "normed"),
        Parameter(LAYER + "post_attention_layernorm.weight", "gain normed", when="not use_parallel_residual"),
        Parameter(LAYER + "post_attention_layernorm.bias", "normed", when="not use_parallel_residual"),
        *FINAL,
        Parameter("model.norm.bias", "final"),
    ),
    tie=TIE,
    buffers=INVERSE_FREQUENCIES,
    padding=Padding("layer", "layer_norm_eps"),
    dropout=("hidden_dropout", "attention_dropout"),
    refusals=(
        Refusal("tensors", "a norm of its own for each head, under numbers of heads in names", when="qk_layernorm"),
    ),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
