"""Granite with experts in every block, and the windows, sinks and rotary bases of `granite_swa`.

Source: IBM Granite Team, "Granite SWAsh", 2026; transformers `GraniteMoeSWAForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.rows import EMBEDDING
from ckptgrow.families.tables.granite_swa import OF_LAYERS, SINKS
from ckptgrow.families.tables.granitemoe import FAMILY as GRANITEMOE

FAMILY = replace(
    GRANITEMOE,
    model_type="granitemoe_swa",
    parameters=(EMBEDDING, SINKS, *GRANITEMOE.parameters[1:]),
    spellings=(),
    layer_lists=OF_LAYERS,
    of_dense=None,
)
