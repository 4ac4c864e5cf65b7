"""OLMo: Llama's blocks with norms that have no parameters.

Source: Groeneveld et al., "OLMo", arXiv 2402.00838; transformers `OlmoForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, GATED_FFN, SIZES, TIE
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
    refusals=(
        Refusal(
            "hidden",
            "its norms have no gain that could make up for new coordinates; ⟦factor K⟧ multiplies the hidden size",
        ),
        Refusal("zero-norm", "its norms have no gain that could be zero; use ⟦new zero-output⟧"),
        Refusal(
            "width",
            "its head is tied to the embedding and its final norm has no gain that could make up for the copies",
            when="tie_word_embeddings",
        ),
    ),
    tasks=(SEQUENCE, VALUES),
)
