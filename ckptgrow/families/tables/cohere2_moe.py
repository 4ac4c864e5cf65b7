"""Command with experts: Command A's blocks, in which a list says which are dense and which have experts.

Weights are a softmax of the scores of those chosen, or sigmoids. Its norms are LayerNorms, or RMSNorms where the config
gives them an ε.

Source: Cohere, 2026; transformers `Cohere2MoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.derived_rows import by_list
from ckptgrow.families.family import Refusal, Size
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    NORMS,
    PIECES_OF_EXPERTS,
    SIZES,
    SPARSE_EXPERTS_BEHIND_ROUTER,
    shared_experts,
)
from ckptgrow.families.tables.cohere2 import FAMILY as COHERE2

KINDS = "mlp_layer_types"

FAMILY = replace(
    COHERE2,
    model_type="cohere2_moe",
    sizes={
        **SIZES,
        "dense_ffn": Size(config="prefix_dense_intermediate_size", same="ffn"),
        "experts": Size(config="num_experts"),
        "routed": Size(same="experts"),
        "shared": Size(config="num_shared_experts", is_optional=True),
    },
    parameters=by_list(
        (
            EMBEDDING,
            *ATTENTION,
            *ATTENTION_BIASES,
            *DENSE_LAYERS,
            *SPARSE_EXPERTS_BEHIND_ROUTER,
            *shared_experts("num_shared_experts"),
            NORMS[0],
            *FINAL,
        ),
        KINDS,
    ),
    pieces=PIECES_OF_EXPERTS,
    layer_lists=("layer_types", KINDS),
    refusals=(
        Refusal(
            "hidden",
            "its norms are RMSNorms here, which new coordinates enter otherwise; ⟦factor K⟧ multiplies the hidden size",
            when="rms_norm_eps",
        ),
        Refusal(
            "experts",
            "the weights of a token's experts are no shares of one sum, so that copies would weigh otherwise; width "
            "grows them",
            when="expert_selection_fn == sigmoid and not norm_topk_prob",
        ),
    ),
)
