"""InternLM3: Llama's own model under other names of the fields for biases.

Source: InternLM Team, "InternLM3", 2025; transformers `LlamaForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.tables.llama import FAMILY as LLAMA
from ckptgrow.families.task_rows import VALUES

FAMILY = replace(LLAMA, model_type="internlm3", buffers=(), tasks=(VALUES,))
