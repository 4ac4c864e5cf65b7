"""Granite with windows by a list, a sink for each head, and a list of the layers' rotary bases, 0 for none.

Source: IBM Granite Team, "Granite SWAsh", 2026; transformers `GraniteSWAForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter
from ckptgrow.families.rows import EMBEDDING, LAYER, TIE
from ckptgrow.families.tables.granite import FAMILY as GRANITE

SINKS = Parameter(LAYER + "self_attn.sinks", "heads")
OF_LAYERS = ("layer_types", "layer_rope_theta")

FAMILY = replace(
    GRANITE,
    model_type="granite_swa",
    parameters=(EMBEDDING, SINKS, *GRANITE.parameters[1:]),
    tie=replace(TIE, default=True),
    layer_lists=OF_LAYERS,
)
