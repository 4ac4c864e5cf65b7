"""MiniMax-M2: Mixtral's blocks with sigmoid routing and a bias that no gradient moves, norms over all queries and keys.

Source: MiniMax, "MiniMax-M2", 2025; transformers `MiniMaxM2ForCausalLM`.
"""

from ckptgrow.families.family import Choice, Family, Parameter, Refusal
from ckptgrow.families.rows import (
    ATTENTION,
    EMBEDDING,
    EXPERTS,
    FINAL,
    LAYER,
    NORMS,
    OF_CHOICE,
    OF_SHARED_EPS,
    TIE,
)
from ckptgrow.families.tables.mixtral import FAMILY as MIXTRAL
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="minimax_m2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**MIXTRAL.sizes, **OF_CHOICE},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        Parameter(LAYER + "self_attn.q_norm.weight", "gain (heads head)"),
        Parameter(LAYER + "self_attn.k_norm.weight", "gain (kv_heads head)"),
        *EXPERTS,
        *NORMS,
        *FINAL,
    ),
    pieces=MIXTRAL.pieces,
    spellings=(
        *MIXTRAL.spellings,
        ("mlp.e_score_correction_bias", "block_sparse_moe.e_score_correction_bias"),
    ),
    tie=TIE,
    padding=OF_SHARED_EPS,
    buffers=(LAYER + "mlp.e_score_correction_bias",),
    dropout=("attention_dropout",),
    aliases=MIXTRAL.aliases,
    choice=Choice(scores="sigmoid", bias=LAYER + "mlp.e_score_correction_bias"),
    refusals=(
        Refusal("heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
        Refusal("kv_heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
    ),
    tasks=(VALUES,),
)
