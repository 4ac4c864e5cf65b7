"""OLMo 3: OLMo 2's blocks, most of them with a sliding window.

Source: OLMo Team, "Olmo 3", arXiv 2512.13961; transformers `Olmo3ForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.tables.olmo2 import FAMILY as OLMO2
from ckptgrow.families.task_rows import SEQUENCE, VALUES

FAMILY = replace(OLMO2, model_type="olmo3", layer_lists=("layer_types",), tasks=(SEQUENCE, VALUES))
