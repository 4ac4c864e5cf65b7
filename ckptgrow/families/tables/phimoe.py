"""Phi-3.5-MoE: Mixtral's blocks behind LayerNorms, with a router that masks all scores but those near the largest.

Source: Microsoft, "Phi-3 Technical Report", arXiv 2404.14219; the router: Liu et al., "GRIN", arXiv 2409.12136;
transformers `PhimoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Padding, Parameter, Refusal
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, EXPERTS, FINAL, LAYER, NORM_BIASES, NORMS
from ckptgrow.families.tables.mixtral import FAMILY as MIXTRAL
from ckptgrow.families.task_rows import SEQUENCE, VALUES

FAMILY = replace(
    MIXTRAL,
    model_type="phimoe",
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        replace(EXPERTS[0], name=LAYER + "mlp.router.weight"),
        *EXPERTS[1:],
        *NORMS,
        *NORM_BIASES,
        *FINAL,
        Parameter("model.norm.bias", "final"),
        Parameter("lm_head.bias", "vocab", when="lm_head_bias"),
    ),
    spellings=(("mlp.router.", "block_sparse_moe.gate."),),
    padding=Padding("layer", "rms_norm_eps"),
    dropout=("attention_dropout", "input_jitter_noise"),
    aliases={},
    of_dense=None,
    refusals=(
        Refusal(
            "experts",
            "its router masks every score that is not near the largest, so copies would be chosen otherwise; width "
            "grows them",
        ),
    ),
    tasks=(SEQUENCE, VALUES),
)
