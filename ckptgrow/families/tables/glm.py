"""GLM-4 of 2024: Llama's blocks with fused gates, and positions that turn half of each head.

Source: GLM Team, "ChatGLM", arXiv 2406.12793; transformers `GlmForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, FINAL, FUSED_FFN, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="glm",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(EMBEDDING, *ATTENTION, *ATTENTION_BIASES[:3], *FUSED_FFN, *NORMS, *FINAL),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
