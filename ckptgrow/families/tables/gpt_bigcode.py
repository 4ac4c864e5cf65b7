"""GPT-BigCode: GPT-2's blocks with one key and value head for all queries, or fused by head.

Source: Ben Allal et al., "SantaCoder", arXiv 2301.03988; transformers `GPTBigCodeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter
from ckptgrow.families.tables.gpt2 import FAMILY as GPT2
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS, SEQUENCE, VALUES

LAYER = "transformer.h.{layer}."

FAMILY = replace(
    GPT2,
    model_type="gpt_bigcode",
    parameters=(
        *GPT2.parameters[:4],
        Parameter(LAYER + "attn.c_attn.weight", "(heads head + 2! head) <- normed", when="multi_query"),
        Parameter(LAYER + "attn.c_attn.bias", "(heads head + 2! head)", when="multi_query"),
        Parameter(LAYER + "attn.c_attn.weight", "(heads 3! head) <- normed", when="not multi_query"),
        Parameter(LAYER + "attn.c_attn.bias", "(heads 3! head)", when="not multi_query"),
        Parameter(LAYER + "attn.c_proj.weight", "residual <- (heads head)"),
        Parameter(LAYER + "attn.c_proj.bias", "residual"),
        Parameter(LAYER + "ln_2.weight", "gain normed"),
        Parameter(LAYER + "ln_2.bias", "normed"),
        Parameter(LAYER + "mlp.c_fc.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.c_fc.bias", "ffn!"),
        Parameter(LAYER + "mlp.c_proj.weight", "residual <- ffn"),
        Parameter(LAYER + "mlp.c_proj.bias", "residual"),
        *GPT2.parameters[-3:],
    ),
    refusals=(),
    original_sizes={},
    tasks=(SEQUENCE, CLASSIFIED_TOKENS, VALUES),
)
