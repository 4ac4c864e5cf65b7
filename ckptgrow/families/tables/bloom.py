"""BLOOM: ALiBi instead of positions; queries, keys and values interleaved by head.

Source: BigScience Workshop, "BLOOM", arXiv 2211.05100; Press et al., "Train Short, Test Long" (ALiBi), arXiv
2108.12409; transformers `BloomForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, Tie
from ckptgrow.families.rows import ALIBI
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS, QUESTIONS, SEQUENCE, VALUES

LAYER = "transformer.h.{layer}."

FAMILY = Family(
    model_type="bloom",
    base_prefix="transformer.",
    num_layers="n_layer",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="n_head"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(times=(4, "residual")),
    },
    parameters=(
        Parameter("transformer.word_embeddings.weight", "vocab -> residual"),
        Parameter("transformer.word_embeddings_layernorm.weight", "gain residual"),
        Parameter("transformer.word_embeddings_layernorm.bias", "residual"),
        Parameter(LAYER + "input_layernorm.weight", "gain normed"),
        Parameter(LAYER + "input_layernorm.bias", "normed"),
        Parameter(LAYER + "self_attention.query_key_value.weight", "(heads 3! head) <- normed"),
        Parameter(LAYER + "self_attention.query_key_value.bias", "(heads 3! head)"),
        Parameter(LAYER + "self_attention.dense.weight", "residual <- (heads head)"),
        Parameter(LAYER + "self_attention.dense.bias", "residual"),
        Parameter(LAYER + "post_attention_layernorm.weight", "gain normed"),
        Parameter(LAYER + "post_attention_layernorm.bias", "normed"),
        Parameter(LAYER + "mlp.dense_h_to_4h.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.dense_h_to_4h.bias", "ffn!"),
        Parameter(LAYER + "mlp.dense_4h_to_h.weight", "residual <- ffn"),
        Parameter(LAYER + "mlp.dense_4h_to_h.bias", "residual"),
        Parameter("transformer.ln_f.weight", "gain final"),
        Parameter("transformer.ln_f.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="transformer.word_embeddings.weight"),
    dropout=("hidden_dropout", "attention_dropout"),
    aliases={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    refusals=(
        Refusal("hidden", "a larger hidden size means more or larger heads; ALiBi and their scale forbid both"),
        *ALIBI,
        Refusal("ffn", "its config has no field for the size of the feed-forward block, which is 4 × hidden"),
        Refusal("depth", "its residual stream is the norm's output", when="apply_residual_connection_post_layernorm"),
    ),
    tasks=(SEQUENCE, CLASSIFIED_TOKENS, QUESTIONS, VALUES),
)
