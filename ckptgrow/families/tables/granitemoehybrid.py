"""Granite 4: layers of Mamba-2's states and of attention, each with a fused feed-forward part, and experts or none.

Source: IBM Granite Team, "Granite 4.0", 2025; transformers `GraniteMoeHybridForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Parameter, Size
from ckptgrow.families.mamba_rows import FOLLOWS_HIDDEN, UNITS, mixer, sizes_with_states
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, FINAL, LAYER, NORMS, TIE
from ckptgrow.families.task_rows import VALUES

STATES = "layer_types == linear_attention or mamba"
FULL = "layer_types == full_attention or attention"
EXPERTS, SHARED = LAYER + "block_sparse_moe.", LAYER + "shared_mlp."

FAMILY = Family(
    model_type="granitemoehybrid",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        **sizes_with_states(Size(product=("expansion", "residual"))),
        "experts": Size(config="num_local_experts", is_optional=True),
        "routed": Size(same="experts"),
        "shared_ffn": Size(config="shared_intermediate_size"),
    },
    parameters=(
        EMBEDDING,
        *NORMS,
        Parameter(EXPERTS + "router.weight", "experts <- normed", when="num_local_experts"),
        Parameter(EXPERTS + "experts.gate_up_proj", "experts: (2! ffn) <- normed", when="num_local_experts"),
        Parameter(EXPERTS + "experts.down_proj", "routed <: residual <- ffn", when="num_local_experts"),
        Parameter(SHARED + "input_linear.weight", "(2! shared_ffn) <- normed"),
        Parameter(SHARED + "output_linear.weight", "residual <- shared_ffn"),
        *mixer(LAYER + "mamba.", bias="mamba_proj_bias", conv_bias="mamba_conv_bias", layers=STATES),
        *(replace(one, layers=FULL) for one in (*ATTENTION, *ATTENTION_BIASES)),
        *FINAL,
    ),
    spellings=(
        ("block_sparse_moe.router.weight", "block_sparse_moe.router.layer.weight"),
        ("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.input_linear.weight"),
        ("block_sparse_moe.experts.down_proj", "block_sparse_moe.output_linear.weight"),
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    units=("heads", "kv_heads", "ffn", "shared_ffn", "inner", *UNITS),
    layer_lists=("layer_types",),
    aliases={"layers_block_type": "layer_types"},
    refusals=(FOLLOWS_HIDDEN,),
    tasks=(VALUES,),
)
