"""Granite with experts in every block, and constant multipliers that do not depend on any size.

Source: Granite Team, IBM, "Granite 3.0 Language Models", 2024; transformers `GraniteMoeForCausalLM`.
"""

from ckptgrow.families.family import Family, OfDense, Padding, Parameter, Size
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, FINAL, LAYER, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="granitemoe",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "experts": Size(config="num_local_experts"), "routed": Size(same="experts")},
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *NORMS,
        Parameter(LAYER + "block_sparse_moe.router.weight", "experts <- normed"),
        Parameter(LAYER + "block_sparse_moe.experts.gate_up_proj", "experts: (2! ffn) <- normed"),
        Parameter(LAYER + "block_sparse_moe.experts.down_proj", "routed <: residual <- ffn"),
        *FINAL,
    ),
    spellings=(
        ("block_sparse_moe.router.weight", "block_sparse_moe.router.layer.weight"),
        ("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.input_linear.weight"),
        ("block_sparse_moe.experts.down_proj", "block_sparse_moe.output_linear.weight"),
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    of_dense=OfDense(families={"granite": {}}, without={"mlp_bias": False}),
    tasks=(VALUES,),
)
