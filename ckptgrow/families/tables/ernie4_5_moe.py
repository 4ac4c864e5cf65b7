"""ERNIE 4.5 with experts: a bias on their probabilities that no gradient moves, and shared experts.

Source: Baidu, "ERNIE 4.5 Technical Report", 2025; transformers `Ernie4_5_MoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Choice, Family, Padding, Parameter, Sparse
from ckptgrow.families.rows import (
    ATTENTION,
    ATTENTION_BIASES,
    DENSE_LAYERS,
    EMBEDDING,
    FINAL,
    LAYER,
    NORMS,
    OF_CHOICE,
    PIECES_OF_EXPERTS,
    SPARSE_EXPERTS,
    TIE,
    mixture_sizes,
    shared_experts,
)
from ckptgrow.families.task_rows import VALUES

BIAS = LAYER + "mlp.gate.moe_statics.e_score_correction_bias"

FAMILY = Family(
    model_type="ernie4_5_moe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**mixture_sizes("moe_num_experts", "moe_num_shared_experts"), **OF_CHOICE},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *(replace(one, when="use_bias") for one in ATTENTION_BIASES),
        *DENSE_LAYERS,
        Parameter(LAYER + "mlp.gate_proj.bias", "dense_ffn", when="use_bias", layers="dense"),
        Parameter(LAYER + "mlp.up_proj.bias", "dense_ffn!", when="use_bias", layers="dense"),
        Parameter(LAYER + "mlp.down_proj.bias", "residual", when="use_bias", layers="dense"),
        SPARSE_EXPERTS[-1],
        Parameter(BIAS, "1: choice", layers="sparse"),
        *SPARSE_EXPERTS[:-1],
        *shared_experts("moe_num_shared_experts", bias="use_bias"),
        *NORMS,
        *FINAL,
        Parameter("lm_head.bias", "vocab", when="use_bias"),
    ),
    untrained=(BIAS,),
    pieces=PIECES_OF_EXPERTS,
    spellings=(("mlp.gate.moe_statics.", "mlp.moe_statics."),),
    tie=replace(TIE, default=True),
    padding=Padding("rms", "rms_norm_eps"),
    sparse=Sparse(step="moe_layer_interval", first="moe_layer_start_index", last="moe_layer_end_index"),
    aliases={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
    choice=Choice(chosen="moe_k", bias=BIAS),
    tasks=(VALUES,),
)
