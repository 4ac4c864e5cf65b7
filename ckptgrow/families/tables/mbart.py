"""mBART: BART with norms before each block, and one more at the end of encoder and decoder.

Source: Liu et al., "Multilingual Denoising Pre-training for Neural Machine Translation", arXiv 2001.08210; transformers
`MBartForConditionalGeneration`.
"""

from dataclasses import replace

from ckptgrow.families.family import Parameter, Refusal
from ckptgrow.families.tables.bart import FAMILY as BART
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

BLOCKS = ("normed", "residual", "normed")  # read, written, and written by norms

FAMILY = replace(
    BART,
    model_type="mbart",
    sizes=SIZES,
    parameters=(
        *embeddings("model.shared.weight", "branch"),
        *embeddings("model.encoder.embed_tokens.weight", "branch", "not tie_word_embeddings"),
        Parameter("model.encoder.embed_positions.weight", "(2 + position) -> branch"),
        *encoder_layers(*BLOCKS),
        *norm("model.encoder.layernorm_embedding", "residual"),
        *norm("model.encoder.layer_norm", "encoded"),
        *embeddings("model.decoder.embed_tokens.weight", "branch", "not tie_word_embeddings"),
        Parameter("model.decoder.embed_positions.weight", "(2 + position) -> branch"),
        *decoder_layers(*BLOCKS, "encoded", norm(DECODER + "final_layer_norm", "normed")),
        *norm("model.decoder.layernorm_embedding", "residual"),
        *ends("model.decoder.layer_norm.weight", "gain {}"),
        *ends("model.decoder.layer_norm.bias", "{}"),
        *ends("lm_head.weight", "vocab <- {}"),
    ),
    residual=RESIDUAL,
    depth_is_exact=True,
    refusals=(
        Refusal("hidden", "a norm stands behind the embedding, so no new coordinate can stay the mean; use ⟦factor K⟧"),
        PAST_THE_NORM,
        BIASED_LOGITS,
        UNEQUAL,
    ),
)
