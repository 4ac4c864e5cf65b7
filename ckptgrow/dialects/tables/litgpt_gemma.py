"""litgpt's Gemma: norms that add one to their gains, which it chooses by the model's name, and a norm behind what each
block of the second and third version adds. Some layers look at a window alone: a list of ones and zeros says which.

Source: Lightning AI, litgpt, `model.py` and `config.py`, of version 0.5.13.
"""

from collections.abc import Mapping
from typing import Any

from ckptgrow.dialects.dialect import Dialect, Row
from ckptgrow.dialects.tables.litgpt import (
    ANYTHING,
    BEFORE_ATTENTION,
    EMBEDDING,
    FINAL,
    GATED_FFN,
    HEAD,
    HEAD_NORMS,
    OUR,
    OUTPUT,
    QKV,
    RMS,
    THEIR,
    UNBIASED,
    litgpt_dialect,
    llama_rows,
    with_map,
)

PLAIN: Mapping[str, tuple[Any, ...]] = {
    "mlp_class_name": ("GemmaMLP",),
    "scale_embeddings": (True,),
    "gelu_approximate": ("tanh",),
}
NORMED: Mapping[str, tuple[Any, ...]] = {
    **PLAIN,
    "post_attention_norm": (True,),
    "post_mlp_norm": (True,),
    **dict.fromkeys(("sliding_window_size", "sliding_window_indices", "attention_scores_scalar"), ANYTHING),
}
WINDOWS = (
    ("sliding_window_size", "sliding_window"),
    ("sliding_window_indices", "layer_types"),
    ("attention_scores_scalar", "query_pre_attn_scalar"),
)
KINDS: Mapping[str, Mapping[Any, str]] = {"layer_types": {1: "sliding_attention", 0: "full_attention"}}
GELU: Mapping[str, Any] = {"hidden_activation": "gelu_pytorch_tanh", **UNBIASED}


def _rows(*in_attention: Row) -> tuple[Row, ...]:
    """Those of the later versions, with further ones of the attention."""
    return (
        *(HEAD, EMBEDDING, BEFORE_ATTENTION, QKV, OUTPUT, *in_attention),
        Row(THEIR + "post_attention_norm.weight", OUR + "post_attention_layernorm.weight"),
        Row(THEIR + "norm_2.weight", OUR + "pre_feedforward_layernorm.weight"),
        *GATED_FFN,
        Row(THEIR + "post_mlp_norm.weight", OUR + "post_feedforward_layernorm.weight"),
        FINAL,
    )


def _windowed(
    model_type: str,
    rows: tuple[Row, ...],
    fields: tuple[tuple[str, str], ...],
    expects: Mapping[str, tuple[Any, ...]],
    **constants: Any,
) -> Dialect:
    """A version with windows, whose config must say all of its `fields`, but for scaled rotary positions."""
    found = litgpt_dialect(model_type, rows, (*RMS, *WINDOWS, *fields), expects, **constants)
    needs = tuple(theirs for theirs, _ in (*WINDOWS, *fields) if "." not in theirs)
    return with_map(found, needs=needs, words=KINDS)


DIALECTS = (
    litgpt_dialect(
        "gemma",
        llama_rows(),
        RMS,
        PLAIN,
        name="Gemma",
        architectures=["GemmaForCausalLM"],
        hidden_act="gelu_pytorch_tanh",
        **GELU,
    ),
    _windowed(
        "gemma2",
        _rows(),
        (
            ("attention_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ),
        {**NORMED, **dict.fromkeys(("attention_logit_softcapping", "final_logit_softcapping"), ANYTHING)},
        name="Gemma-2",
        architectures=["Gemma2ForCausalLM"],
        **GELU,
    ),
    _windowed(
        "gemma3_text",
        _rows(*HEAD_NORMS),
        (
            ("rope_local_base_freq", "rope_local_base_freq"),
            ("rope_indices", "layer_types"),
            ("rope_adjustments.factor", "rope_scaling.factor"),
        ),
        {
            **NORMED,
            "norm_qk": (True,),
            "norm_qk_type": ("default",),
            **dict.fromkeys(("rope_local_base_freq", "rope_indices", "rope_adjustments"), ANYTHING),
        },
        name="Gemma-3",
        **{"rope_scaling.rope_type": "linear"},
        architectures=["Gemma3ForCausalLM"],
        **GELU,
    ),
)
