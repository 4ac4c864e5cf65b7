"""litgpt's Falcon: attention and feed-forward side by side, behind one norm and with one key head, or behind two norms
and with groups of queries, whose keys and values transformers has group after group.

Source: Lightning AI, litgpt, `model.py`, `config.py` and `scripts/convert_hf_checkpoint.py`, of version 0.5.13.
"""

from dataclasses import replace
from typing import Any

from ckptgrow.dialects.dialect import Dialect, Row
from ckptgrow.dialects.tables.litgpt import ANYTHING, HEAD, SIZES, THEIR, WITHOUT_DROPOUT, litgpt_dialect

OUR = "transformer.h.{layer}."


def _norm(theirs: str, ours: str) -> tuple[Row, Row]:
    return Row(f"{theirs}.weight", f"{ours}.weight"), Row(f"{theirs}.bias", f"{ours}.bias")


def _falcon(norms: tuple[str, ...], order: str, *, is_new: bool, **expects: tuple[Any, ...]) -> Dialect:
    """Falcon with these norms before its blocks; `order` is that of queries, keys and values."""
    sizes = (pair for pair in SIZES if pair[0] != "intermediate_size")
    found = litgpt_dialect(
        "falcon",
        (
            *(HEAD, Row("transformer.wte.weight", "transformer.word_embeddings.weight")),
            *_norm(THEIR + "norm_1", OUR + norms[0]),
            Row(THEIR + "attn.qkv.weight", order + OUR + "self_attention.query_key_value.weight"),
            Row(THEIR + "attn.proj.weight", OUR + "self_attention.dense.weight"),
            *(row for norm in norms[1:] for row in _norm(THEIR + "norm_2", OUR + norm)),
            Row(THEIR + "mlp.fc.weight", OUR + "mlp.dense_h_to_4h.weight"),
            Row(THEIR + "mlp.proj.weight", OUR + "mlp.dense_4h_to_h.weight"),
            *_norm("transformer.ln_f", "transformer.ln_f"),
        ),
        (
            *sizes,
            ("intermediate_size", "ffn_hidden_size"),
            ("norm_eps", "layer_norm_epsilon"),
            *((("n_query_groups", "num_kv_heads"),) if is_new else ()),
        ),
        {
            "norm_class_name": ("LayerNorm",),
            "mlp_class_name": ("GptNeoxMLP",),
            "gelu_approximate": ("none",),
            "parallel_residual": (True,),
            **expects,
        },
        architectures=["FalconForCausalLM"],
        new_decoder_architecture=is_new,
        multi_query=True,
        parallel_attn=True,
        alibi=False,
        bias=False,
        activation="gelu",
        num_ln_in_parallel_attn=None,
        **WITHOUT_DROPOUT,
    )
    name = f"{found.name}-groups" if is_new else found.name
    return replace(found, name=name, demands={"new_decoder_architecture": (is_new,)})


DIALECTS = (
    _falcon(("input_layernorm",), "", is_new=False, shared_attention_norm=(True,), n_query_groups=(1,)),
    _falcon(("ln_attn", "ln_mlp"), "groups kv_heads: ", is_new=True, n_query_groups=ANYTHING),
)
