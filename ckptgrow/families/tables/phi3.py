"""Phi-3: Llama's blocks with queries, keys and values in one tensor, gate and up in another.

Source: Abdin et al., "Phi-3 Technical Report", arXiv 2404.14219; transformers `Phi3ForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter
from ckptgrow.families.rows import EMBEDDING, FINAL, FUSED_FFN, LAYER, NORMS, SIZES, TIE
from ckptgrow.families.task_rows import SEQUENCE, TOKENS, VALUES

FAMILY = Family(
    model_type="phi3",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        Parameter(LAYER + "self_attn.o_proj.weight", "residual <- (heads head)"),
        Parameter(LAYER + "self_attn.qkv_proj.weight", "(heads head + kv_heads head + kv_heads! head) <- normed"),
        *FUSED_FFN,
        *NORMS,
        *FINAL,
    ),
    tie=TIE,
    padding=Padding("rms", "rms_norm_eps"),
    dropout=("resid_pdrop", "embd_pdrop", "attention_dropout"),
    tasks=(SEQUENCE, TOKENS, VALUES),
)
