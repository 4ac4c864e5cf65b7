"""IQuest-Coder: Llama's own model.

Source: IQuest Lab, "IQuest-Coder-V1", 2026; transformers `LlamaForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.tables.llama import FAMILY as LLAMA
from ckptgrow.families.task_rows import VALUES

FAMILY = replace(LLAMA, model_type="iquestcoder", buffers=(), tasks=(VALUES,))
