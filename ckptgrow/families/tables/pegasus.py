"""Pegasus: norms before each block and at both ends, and sines as positions, which files hold and nothing trains.

Source: Zhang et al., "PEGASUS", arXiv 1912.08777; transformers `PegasusForConditionalGeneration`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter, Refusal
from ckptgrow.families.tables.mbart import BLOCKS
from ckptgrow.families.tables.mbart import FAMILY as MBART
from ckptgrow.families.translation_rows import (
    BIASED_LOGITS,
    DECODER,
    PAST_THE_NORM,
    RESIDUAL,
    SIZES,
    UNEQUAL,
    decoder_layers,
    embeddings,
    encoder_layers,
    ends,
    norm,
)

POSITIONS = tuple(f"model.{part}.embed_positions.weight" for part in ("encoder", "decoder"))

FAMILY = replace(
    MBART,
    model_type="pegasus",
    sizes={space: size for space, size in SIZES.items() if space != "branch"},
    parameters=(
        *embeddings("model.shared.weight", "residual"),
        *embeddings("model.encoder.embed_tokens.weight", "residual", "not tie_word_embeddings"),
        Parameter(POSITIONS[0], "position -> residual"),
        *encoder_layers(*BLOCKS),
        *norm("model.encoder.layer_norm", "encoded"),
        *embeddings("model.decoder.embed_tokens.weight", "residual", "not tie_word_embeddings"),
        Parameter(POSITIONS[1], "position -> residual"),
        *decoder_layers(*BLOCKS, "encoded", norm(DECODER + "final_layer_norm", "normed")),
        *ends("model.decoder.layer_norm.weight", "gain {}"),
        *ends("model.decoder.layer_norm.bias", "{}"),
        *ends("lm_head.weight", "vocab <- {}"),
    ),
    untrained=POSITIONS,
    residual=tuple(one for one in RESIDUAL if one != "branch"),
    refusals=(
        Refusal("hidden", "its config has no field for the norms' ε; ⟦factor K⟧ multiplies the hidden size"),
        Refusal("positions", "its positions are sines, which no training made and more of them would not be"),
        PAST_THE_NORM,
        BIASED_LOGITS,
        UNEQUAL,
    ),
    tasks=(),
)
