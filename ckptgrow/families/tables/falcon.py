"""Falcon: one key head for all queries in one tensor with them, or groups of queries with their key and value heads.

Attention and feed-forward stand side by side behind one norm or two, or one behind the other.

Source: Almazrouei et al., "The Falcon Series of Open Language Models", arXiv 2311.16867; transformers
`FalconForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Padding, Parameter, Refusal, Size, Tie
from ckptgrow.families.rows import ALIBI
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS, QUESTIONS, SEQUENCE, VALUES

LAYER = "transformer.h.{layer}."
ATTENTION, BLOCK = LAYER + "self_attention.", LAYER + "mlp."
QUERIES_KEYS_VALUES = {  # the layout of their tensor, by the condition
    "new_decoder_architecture": "(kv_heads served_and_two)",
    "multi_query and not new_decoder_architecture": "(heads head + 2! head)",
    "not multi_query and not new_decoder_architecture": "(heads 3! head)",
}
NORMS = {  # the norms of a layer, by the condition
    "not parallel_attn": ("post_attention_layernorm", "input_layernorm"),
    "parallel_attn and num_ln_in_parallel_attn == 2": ("ln_attn", "ln_mlp"),
    "parallel_attn and new_decoder_architecture and not num_ln_in_parallel_attn": ("ln_attn", "ln_mlp"),
    "parallel_attn and num_ln_in_parallel_attn == 1": ("input_layernorm",),
    "parallel_attn and not new_decoder_architecture and not num_ln_in_parallel_attn": ("input_layernorm",),
}

FAMILY = Family(
    model_type="falcon",
    base_prefix="transformer.",
    num_layers="num_hidden_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="num_attention_heads"),
        "kv_heads": Size(config="num_kv_heads", same="heads"),
        "head": Size(ratio=("residual", "heads")),
        "served": Size(ratio=("heads", "kv_heads")),
        "served_heads": Size(product=("served", "head")),
        "served_and_two": Size(sum=("served_heads", "head", "head")),
        "ffn": Size(config="ffn_hidden_size"),
    },
    parameters=(
        Parameter("transformer.word_embeddings.weight", "vocab -> residual"),
        *(
            Parameter(ATTENTION + "query_key_value.weight", f"{layout} <- normed", when=condition)
            for condition, layout in QUERIES_KEYS_VALUES.items()
        ),
        *(
            Parameter(ATTENTION + "query_key_value.bias", layout, when=f"{condition} and bias")
            for condition, layout in QUERIES_KEYS_VALUES.items()
        ),
        Parameter(ATTENTION + "dense.weight", "residual <- (heads head)"),
        Parameter(ATTENTION + "dense.bias", "residual", when="bias"),
        Parameter(BLOCK + "dense_h_to_4h.weight", "ffn! <- normed"),
        Parameter(BLOCK + "dense_h_to_4h.bias", "ffn!", when="bias"),
        Parameter(BLOCK + "dense_4h_to_h.weight", "residual <- ffn"),
        Parameter(BLOCK + "dense_4h_to_h.bias", "residual", when="bias"),
        *(
            row
            for condition, names in NORMS.items()
            for name in names
            for row in (
                Parameter(f"{LAYER}{name}.weight", "gain normed", when=condition),
                Parameter(f"{LAYER}{name}.bias", "normed", when=condition),
            )
        ),
        Parameter("transformer.ln_f.weight", "gain final"),
        Parameter("transformer.ln_f.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="transformer.word_embeddings.weight"),
    padding=Padding("layer", "layer_norm_epsilon"),
    activation="activation",
    dropout=("hidden_dropout", "attention_dropout"),
    refusals=(
        *(replace(one, when="alibi") for one in ALIBI),
        replace(ALIBI[0], operator="hidden", when="alibi"),
        Refusal(
            "hidden",
            "its one key head lies in one tensor with the queries of its group, whose number would change; "
            "⟦factor K⟧ multiplies the hidden size",
            when="new_decoder_architecture and num_kv_heads == 1",
        ),
    ),
    tasks=(SEQUENCE, CLASSIFIED_TOKENS, QUESTIONS, VALUES),
)
