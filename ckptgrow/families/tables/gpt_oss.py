"""gpt-oss: experts with biases and a clamped gate, attention sinks, and windows in every other layer.

Source: OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", arXiv 2508.10925; transformers `GptOssForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, FINAL, LAYER, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="gpt_oss",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "experts": Size(config="num_local_experts"), "routed": Size(same="experts")},
    parameters=(
        EMBEDDING,
        Parameter(LAYER + "self_attn.sinks", "heads"),
        *ATTENTION,
        *ATTENTION_BIASES,
        Parameter(LAYER + "mlp.router.weight", "experts <- normed"),
        Parameter(LAYER + "mlp.router.bias", "experts"),
        Parameter(LAYER + "mlp.experts.gate_up_proj", "experts: normed -> (ffn 2)"),
        Parameter(LAYER + "mlp.experts.gate_up_proj_bias", "experts: (ffn 2)"),
        Parameter(LAYER + "mlp.experts.down_proj", "routed <: ffn -> residual"),
        Parameter(LAYER + "mlp.experts.down_proj_bias", "experts: residual"),
        *NORMS,
        *FINAL,
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    layer_lists=("layer_types",),
    aliases={"num_experts": "num_local_experts"},
    tasks=(SEQUENCE, TOKENS, VALUES),
)
