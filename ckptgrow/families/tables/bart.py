"""BART: an encoder and a decoder with norms after each block, learned positions that begin at 2, a tied head.

The norm that ends the decoder's last layer is the one before the head, and makes up for the copies that this reads.

Source: Lewis et al., "BART", arXiv 1910.13461; transformers `BartForConditionalGeneration`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Tie
from ckptgrow.families.translation_rows import (
    ALIASES,
    BIASED_LOGITS,
    DECODER,
    DROPOUT,
    RESIDUAL,
    SHRUNKEN,
    SHRUNKEN_TIED,
    SIZES,
    TASKS,
    TWINS,
    UNEQUAL,
    UNITS,
    decoder_layers,
    embeddings,
    encoder_layers,
    ends,
    norm,
)

BLOCKS = ("residual", "branch", "residual")  # read, written, and written by norms
LAST_NORM = (
    *norm(DECODER + "final_layer_norm", "residual", layers="but last"),
    *ends(DECODER + "final_layer_norm.weight", "gain {}", layers="last"),
    *ends(DECODER + "final_layer_norm.bias", "{}", layers="last"),
)

FAMILY = Family(
    model_type="bart",
    base_prefix="model.",
    num_layers="encoder_layers",
    stacks={"model.decoder.": "decoder_layers"},
    head="seq2seq",
    sizes={space: size for space, size in SIZES.items() if space not in ("normed", "encoded")},
    parameters=(
        *embeddings("model.shared.weight", "branch"),
        *embeddings("model.encoder.embed_tokens.weight", "branch", "not tie_word_embeddings"),
        Parameter("model.encoder.embed_positions.weight", "(2 + position) -> branch"),
        *encoder_layers(*BLOCKS),
        *norm("model.encoder.layernorm_embedding", "residual"),
        *embeddings("model.decoder.embed_tokens.weight", "branch", "not tie_word_embeddings"),
        Parameter("model.decoder.embed_positions.weight", "(2 + position) -> branch"),
        *decoder_layers(*BLOCKS, "residual", LAST_NORM),
        *norm("model.decoder.layernorm_embedding", "residual"),
        *ends("lm_head.weight", "vocab <- {}"),
    ),
    tie=Tie(head="lm_head.weight", embedding="model.shared.weight", is_embedding_if_lacking=True),
    twins=TWINS,
    buffers=("final_logits_bias",),
    activation="activation_function",
    dropout=DROPOUT,
    residual=tuple(one for one in RESIDUAL if one not in ("normed", "encoded")),
    units=UNITS,
    aliases=ALIASES,
    shrunken=SHRUNKEN,
    shrunken_tied=SHRUNKEN_TIED,
    depth_is_exact=False,
    refusals=(
        Refusal("hidden", "a norm stands after each block, so no new coordinate can stay the mean; use ⟦factor K⟧"),
        BIASED_LOGITS,
        UNEQUAL,
    ),
    tasks=TASKS,
)
