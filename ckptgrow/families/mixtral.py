"""Mixtral: Mistral's attention, and a router that sends each token to a few experts.

Source: Jiang et al., "Mixtral of Experts", arXiv 2401.04088; transformers `MixtralForCausalLM`.
"""

from ckptgrow.families.family import Family, Size
from ckptgrow.families.rows import ATTENTION, EMBEDDING, EXPERTS, FINAL, NORMS, SIZES, TIE

FAMILY = Family(
    model_type="mixtral",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={**SIZES, "experts": Size("num_local_experts")},
    parameters=(EMBEDDING, *ATTENTION, *EXPERTS, *NORMS, *FINAL),
    tie=TIE,
    dropout=("attention_dropout",),
)
