"""ModernBERT's decoder: the same blocks with queries, keys and values apart, and causal attention.

Source: Weller et al., "Seq vs Seq" (Ettin), arXiv 2507.11412; transformers `ModernBertDecoderForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter
from ckptgrow.families.tables.modernbert import ATTENTION_NORM, EMBEDDING, LAYER, REST, head, task
from ckptgrow.families.tables.modernbert import FAMILY as MODERNBERT

FAMILY = replace(
    MODERNBERT,
    model_type="modernbert-decoder",
    head="causal",
    parameters=(
        *EMBEDDING,
        *ATTENTION_NORM,
        Parameter(LAYER + "attn.q_proj.weight", "(heads head) <- normed"),
        Parameter(LAYER + "attn.q_proj.bias", "(heads head)", when="attention_bias"),
        Parameter(LAYER + "attn.k_proj.weight", "(heads head) <- normed"),
        Parameter(LAYER + "attn.k_proj.bias", "(heads head)", when="attention_bias"),
        Parameter(LAYER + "attn.v_proj.weight", "(heads! head) <- normed"),
        Parameter(LAYER + "attn.v_proj.bias", "(heads! head)", when="attention_bias"),
        *REST,
        *head("lm_head"),
    ),
    tasks=(task("ForSequenceClassification", "sequence", bias="classifier_bias"),),
)
