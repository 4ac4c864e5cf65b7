"""DeepSeek-V2: DeepSeek-V3's latent attention, and experts that softmax chooses, without a bias beside it.

Source: DeepSeek-AI, "DeepSeek-V2", arXiv 2405.04434; transformers `DeepseekV2ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.derived_rows import with_biases
from ckptgrow.families.family import Choice
from ckptgrow.families.rows import CHOSEN_BY_BIAS, DENSE_LAYERS, FINAL, NORMS, SPARSE_EXPERTS, shared_experts
from ckptgrow.families.tables.deepseek_v3 import FAMILY as DEEPSEEK_V3
from ckptgrow.families.task_rows import SEQUENCE, VALUES

NUM_BEFORE_BLOCKS = DEEPSEEK_V3.parameters.index(DENSE_LAYERS[0])

FAMILY = replace(
    DEEPSEEK_V3,
    model_type="deepseek_v2",
    parameters=(
        *DEEPSEEK_V3.parameters[:NUM_BEFORE_BLOCKS],
        *with_biases(DENSE_LAYERS, "mlp_bias"),
        *SPARSE_EXPERTS,
        *shared_experts("n_shared_experts", "mlp_bias"),
        *NORMS,
        *FINAL,
    ),
    sizes={space: size for space, size in DEEPSEEK_V3.sizes.items() if space != "choice"},
    buffers=(),
    aliases={"num_experts": "n_routed_experts"},
    choice=Choice(groups=CHOSEN_BY_BIAS.groups),
    tasks=(SEQUENCE, VALUES),
)
