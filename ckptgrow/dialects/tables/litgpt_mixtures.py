"""litgpt's mixtures: a router and experts of three matrices each, which transformers has as two tensors of all experts.

The router's logits of the chosen experts go through the softmax, as in Mixtral, and in Qwen3 with `norm_topk_prob`.

Source: Lightning AI, litgpt, `LLaMAMoE` of `model.py`, of version 0.5.13.
"""

from collections.abc import Mapping
from typing import Any

from ckptgrow.dialects.dialect import Row
from ckptgrow.dialects.tables.litgpt import (
    ANYTHING,
    BEFORE_ATTENTION,
    BEFORE_FFN,
    EMBEDDING,
    FINAL,
    HEAD,
    HEAD_NORMS,
    OUR,
    OUTPUT,
    QKV,
    RMS,
    THEIR,
    UNBIASED,
    litgpt_dialect,
    with_map,
)

EXPERT = THEIR + "mlp.experts.{expert}."
EXPERTS = (
    Row(THEIR + "mlp.gate.weight", OUR + "mlp.gate.weight"),
    Row((EXPERT + "fc_1.weight", EXPERT + "fc_2.weight"), OUR + "mlp.experts.gate_up_proj", how="experts join"),
    Row(EXPERT + "proj.weight", OUR + "mlp.experts.down_proj", how="experts"),
)
ROUTED = (*RMS, ("n_expert", "num_local_experts"), ("n_expert_per_token", "num_experts_per_tok"))
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "mlp_class_name": ("LLaMAMoE",),
    "n_expert": ANYTHING,
    "n_shared_expert": (None,),
    "n_expert_groups": (None,),
    "first_k_dense_replace": (None,),
    "routed_scaling_factor": (1.0, None),
}


def _rows(*in_attention: Row) -> tuple[Row, ...]:
    return (HEAD, EMBEDDING, BEFORE_ATTENTION, QKV, OUTPUT, *in_attention, BEFORE_FFN, *EXPERTS, FINAL)


DIALECTS = (
    litgpt_dialect(
        "mixtral",
        _rows(),
        ROUTED,
        {**PLAIN, "moe_intermediate_size": (None,)},
        architectures=["MixtralForCausalLM"],
        sliding_window=None,
        attention_dropout=0.0,
    ),
    with_map(
        litgpt_dialect(
            "qwen3_moe",
            _rows(*HEAD_NORMS),
            (*ROUTED, ("moe_intermediate_size", "moe_intermediate_size")),
            {**PLAIN, "norm_qk": (True,), "norm_qk_type": ("default",)},
            architectures=["Qwen3MoeForCausalLM"],
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            **UNBIASED,
        ),
        needs=("moe_intermediate_size",),
    ),
)
