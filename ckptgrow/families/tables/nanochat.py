"""nanochat: norms without parameters, on queries and keys too, squared ReLU, capped logits.

Source: Karpathy, "nanochat", 2025; transformers `NanoChatForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter
from ckptgrow.families.rows import ATTENTION, ATTENTION_BIASES, EMBEDDING, LAYER, SIZES, TIE, WITHOUT_GAINS
from ckptgrow.families.task_rows import VALUES

FAMILY = Family(
    model_type="nanochat",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes=SIZES,
    parameters=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        Parameter(LAYER + "mlp.fc1.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.fc2.weight", "residual <- ffn"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=TIE,
    activation="hidden_act",
    dropout=("attention_dropout",),
    refusals=WITHOUT_GAINS,
    tasks=(VALUES,),
)
