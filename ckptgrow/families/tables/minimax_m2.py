"""MiniMax-M2: Mixtral's blocks with sigmoid routing and a bias that no gradient moves, norms over all queries and keys.

Source: MiniMax, "MiniMax-M2", 2025; transformers `MiniMaxM2ForCausalLM`.
"""

from ckptgrow.families.family import Family, InPieces, Parameter, Refusal, Size
from ckptgrow.families.rows import ATTENTION, CHOSEN_BY_BIAS, EMBEDDING, EXPERTS, FINAL, LAYER, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import VALUES

EXPERT = LAYER + "block_sparse_moe.experts.{expert}."

FAMILY = Family(
    model_type="minimax_m2",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "experts": Size(config="num_local_experts"), "routed": Size(same="experts")},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        Parameter(LAYER + "self_attn.q_norm.weight", "gain (heads head)"),
        Parameter(LAYER + "self_attn.k_norm.weight", "gain (kv_heads head)"),
        *EXPERTS,
        *NORMS,
        *FINAL,
    ),
    pieces=(
        InPieces(
            LAYER + "mlp.experts.gate_up_proj",
            (Parameter(EXPERT + "w1.weight", "ffn <- normed"), Parameter(EXPERT + "w3.weight", "ffn! <- normed")),
        ),
        InPieces(LAYER + "mlp.experts.down_proj", (Parameter(EXPERT + "w2.weight", "residual <- ffn"),)),
    ),
    spellings=(
        ("mlp.gate.", "block_sparse_moe.gate."),
        ("mlp.e_score_correction_bias", "block_sparse_moe.e_score_correction_bias"),
    ),
    tie=TIE,
    buffers=(LAYER + "mlp.e_score_correction_bias",),
    dropout=("attention_dropout",),
    aliases={"num_experts": "num_local_experts"},
    refusals=(
        CHOSEN_BY_BIAS,
        Refusal(
            "hidden", "norms over all queries share the ε that would change; ⟦factor K⟧ multiplies the hidden size"
        ),
        Refusal("heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
        Refusal("kv_heads", "a norm runs over all heads, so uneven copies weigh differently in it"),
    ),
    tasks=(VALUES,),
)
