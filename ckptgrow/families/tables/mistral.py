"""Mistral: Llama's blocks without biases, over a sliding window.

Source: Jiang et al., "Mistral 7B", arXiv 2310.06825; transformers `MistralForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding
from ckptgrow.families.rows import ATTENTION, EMBEDDING, FINAL, GATED_FFN, INVERSE_FREQUENCIES, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import QUESTIONS, SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="mistral",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(EMBEDDING, *ATTENTION, *GATED_FFN, *NORMS, *FINAL),
    tie=TIE,
    buffers=INVERSE_FREQUENCIES,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("attention_dropout",),
    tasks=(SEQUENCE, TOKENS, QUESTIONS, VALUES),
)
