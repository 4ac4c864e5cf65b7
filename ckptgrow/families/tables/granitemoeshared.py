"""Granite with experts, and one block beside them that every token has.

Source: Granite Team, IBM, "Granite 3.0 Language Models", 2024; transformers `GraniteMoeSharedForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import UNITS, Parameter, Size
from ckptgrow.families.rows import FINAL, LAYER
from ckptgrow.families.tables.granitemoe import FAMILY as GRANITEMOE

SHARED = "shared_intermediate_size"

FAMILY = replace(
    GRANITEMOE,
    model_type="granitemoeshared",
    sizes={**GRANITEMOE.sizes, "shared_ffn": Size(config=SHARED, is_optional=True)},
    parameters=(
        *GRANITEMOE.parameters[: -len(FINAL)],
        Parameter(LAYER + "shared_mlp.input_linear.weight", "(2! shared_ffn) <- normed", when=SHARED),
        Parameter(LAYER + "shared_mlp.output_linear.weight", "residual <- shared_ffn", when=SHARED),
        *FINAL,
    ),
    units=(*UNITS, "shared_ffn"),
    of_dense=None,
)
