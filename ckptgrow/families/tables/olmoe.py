"""OLMoE: experts in every block, and norms over all queries and all keys of a layer.

Source: Muennighoff et al., "OLMoE: Open Mixture-of-Experts Language Models", arXiv 2409.02060; transformers
`OlmoeForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    EXPERTS,
    FINAL,
    LAYER,
    NORMS,
    NORMS_OVER_ALL,
    PIECES_OF_EXPERTS,
    SIZES,
    TIE,
)
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="olmoe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "experts": Size(config="num_experts"), "routed": Size(same="experts")},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        Parameter(LAYER + "self_attn.q_norm.weight", "gain (heads head)"),
        Parameter(LAYER + "self_attn.k_norm.weight", "gain (kv_heads head)"),
        *EXPERTS,
        *NORMS,
        *FINAL,
    ),
    pieces=PIECES_OF_EXPERTS,
    tie=TIE,
    dropout=("attention_dropout",),
    aliases={"num_local_experts": "num_experts"},
    refusals=(
        NORMS_OVER_ALL,
        Refusal("heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
        Refusal("kv_heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
    ),
    tasks=(VALUES,),
)
