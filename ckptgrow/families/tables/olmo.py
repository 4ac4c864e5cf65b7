"""OLMo: Llama's blocks with norms that have no parameters.

Source: Groeneveld et al., "OLMo", arXiv 2402.00838; transformers `OlmoForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, GATED_FFN, SIZES, TIE, WITHOUT_GAINS
from ckptgrow.families.task_rows import SEQUENCE, VALUES

FAMILY = Family(
    model_type="olmo",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *GATED_FFN,
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=TIE,
    dropout=("attention_dropout",),
    refusals=WITHOUT_GAINS,
    tasks=(SEQUENCE, VALUES),
)
