"""StarCoder2: grouped-query attention with LayerNorm and a plain feed-forward block.

Source: Lozhkov et al., "StarCoder 2 and The Stack v2", arXiv 2402.19173; transformers `Starcoder2ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter
from ckptgrow.families.rows import ATTENTION, EMBEDDING, FINAL, LAYER, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="starcoder2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)", when="use_bias"),
        Parameter(LAYER + "self_attn.k_proj.bias", "(kv_heads head)", when="use_bias"),
        Parameter(LAYER + "self_attn.v_proj.bias", "(kv_heads! head)", when="use_bias"),
        Parameter(LAYER + "self_attn.o_proj.bias", "residual", when="use_bias"),
        Parameter(LAYER + "mlp.c_fc.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.c_fc.bias", "ffn!", when="use_bias"),
        Parameter(LAYER + "mlp.c_proj.weight", "residual <- ffn"),
        Parameter(LAYER + "mlp.c_proj.bias", "residual", when="use_bias"),
        *NORMS,
        Parameter(LAYER + "input_layernorm.bias", "normed"),
        Parameter(LAYER + "post_attention_layernorm.bias", "normed"),
        *FINAL,
        Parameter("model.norm.bias", "final"),
    ),
    tie=TIE,
    padding=Padding("layer", "norm_epsilon"),
    activation="hidden_act",
    dropout=("residual_dropout", "embedding_dropout", "attention_dropout"),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
