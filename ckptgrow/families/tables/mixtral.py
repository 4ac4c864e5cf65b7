"""Mixtral: Mistral's attention, and a router that sends each token to a few experts.

Source: Jiang et al., "Mixtral of Experts", arXiv 2401.04088; transformers `MixtralForCausalLM`.
"""

from ckptgrow.families.family import Family, InPieces, OfDense, Padding, Parameter, Size
from ckptgrow.families.rows import ATTENTION, EMBEDDING, EXPERTS, FINAL, LAYER, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import QUESTIONS, SEQUENCE, TOKENS, VALUES

EXPERT = LAYER + "block_sparse_moe.experts.{expert}."

FAMILY = Family(
    model_type="mixtral",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "experts": Size(config="num_local_experts"), "routed": Size(same="experts")},
    parameters=(EMBEDDING, *ATTENTION, *EXPERTS, *NORMS, *FINAL),
    pieces=(
        InPieces(
            LAYER + "mlp.experts.gate_up_proj",
            (Parameter(EXPERT + "w1.weight", "ffn <- normed"), Parameter(EXPERT + "w3.weight", "ffn! <- normed")),
        ),
        InPieces(LAYER + "mlp.experts.down_proj", (Parameter(EXPERT + "w2.weight", "residual <- ffn"),)),
    ),
    spellings=(("mlp.gate.", "block_sparse_moe.gate."),),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    aliases={"num_experts": "num_local_experts"},
    of_dense=OfDense(
        families={"llama": {}, "mistral": {}},
        without={"attention_bias": False, "mlp_bias": False},
        unheard=("pretraining_tp",),
    ),
    tasks=(SEQUENCE, TOKENS, QUESTIONS, VALUES),
)
