"""Megatron-core's GPTModel: all layers in one tensor, queries, keys and values by key and value head, and the gate
above what it gates. Megatron-LM leaves its arguments beside the model, and these say the sizes; Megatron-core alone
leaves none, and the user passes transformers' config.

Source: NVIDIA, Megatron-core 0.16.1, `models/gpt`, `transformer/attention.py`, `transformer/mlp.py`; Megatron-LM,
`megatron/training/arguments.py`.
"""

from collections.abc import Mapping
from typing import Any

from ckptgrow.dialects.dialect import ConfigMap, Dialect, Home, Row

THEIR, OUR = "decoder.layers.", "model.layers.{layer}."
FUSED = THEIR + "self_attention.linear_qkv."
Q, K, V = (f"{OUR}self_attn.{letter}_proj" for letter in "qkv")
EMBEDDING = Row("embedding.word_embeddings.weight", "model.embed_tokens.weight")
HEAD = Row("output_layer.weight", "lm_head.weight")
FINAL = Row("decoder.final_layernorm.weight", "model.norm.weight")
BIAS = Row(FUSED + "bias", f"{Q}.bias", f"{K}.bias", f"{V}.bias", how="stack group")
HEAD_NORMS = tuple(
    Row(f"{THEIR}self_attention.{letter}_layernorm.weight", f"{OUR}self_attn.{letter}_norm.weight", how="stack")
    for letter in "qk"
)


def _rows(*in_attention: Row) -> tuple[Row, ...]:
    """The rows of all layers, with further ones of the attention."""
    return (
        EMBEDDING,
        Row(FUSED + "layer_norm_weight", OUR + "input_layernorm.weight", how="stack"),
        Row(FUSED + "weight", f"{Q}.weight", f"{K}.weight", f"{V}.weight", how="stack group"),
        Row(THEIR + "self_attention.linear_proj.weight", OUR + "self_attn.o_proj.weight", how="stack"),
        *in_attention,
        Row(THEIR + "mlp.linear_fc1.layer_norm_weight", OUR + "post_attention_layernorm.weight", how="stack"),
        Row(
            THEIR + "mlp.linear_fc1.weight",
            *(OUR + "mlp.gate_proj.weight", OUR + "mlp.up_proj.weight"),
            how="stack join",
        ),
        Row(THEIR + "mlp.linear_fc2.weight", OUR + "mlp.down_proj.weight", how="stack"),
        FINAL,
    )


FIELDS = (
    ("num_layers", "num_hidden_layers"),
    ("hidden_size", "hidden_size"),
    ("ffn_hidden_size", "intermediate_size"),
    ("num_attention_heads", "num_attention_heads"),
    ("num_query_groups", "num_key_value_heads"),
    ("padded_vocab_size", "vocab_size"),
    ("max_position_embeddings", "max_position_embeddings"),
    ("norm_epsilon", "rms_norm_eps"),
    ("layernorm_epsilon", "rms_norm_eps"),  # since 0.16
    ("rotary_base", "rope_theta"),
    ("attention_dropout", "attention_dropout"),
)
HEAD_SIZE = ("kv_channels", "head_dim")
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "position_embedding_type": ("rope",),
    "rotary_percent": (1.0, None),
    "rotary_interleaved": (False, None),
    "use_rope_scaling": (False, None),
    "swiglu": (True,),
    "add_bias_linear": (False,),
    "num_experts": (None,),
    "multi_latent_attention": (False, None),
    "apply_layernorm_1p": (False, None),
    "layernorm_zero_centered_gamma": (False, None),  # the same since 0.16
    "apply_residual_connection_post_layernorm": (False, None),
    "softmax_type": ("vanilla", None),
    "window_size": (None,),
    "linear_attention_freq": (None,),
    "experimental_attention_variant": (None,),
    "attention_output_gate": (False, None),
    "qk_l2_norm": (False, None),
    "rotary_seq_len_interpolation_factor": (None,),
    "no_rope_freq": (None,),
    "mrope_section": (None,),
    "squared_relu": (False, None),
    "quick_geglu": (False, None),
    "glu_linear_offset": (0.0, None),
    "activation_func_clamp_value": (None,),
    "mtp_num_layers": (None, 0),
    "use_mup": (False, None),
    "is_hybrid_model": (False, None),
    "heterogeneous_layers_config_path": (None,),
    "qk_layernorm": (False, None),
    "add_qkv_bias": (False, None),
}

BIASES = {"llama": ("attention_bias", "mlp_bias"), "qwen2": (), "qwen3": ("attention_bias",)}


def _constants(model_type: str, is_tied: bool) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "tie_word_embeddings": is_tied,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        "attention_dropout": 0.0,
        **dict.fromkeys(BIASES[model_type], False),
    }


def _dialects(
    model_type: str, architecture: str, expects: Mapping[str, tuple[Any, ...]], *in_attention: Row
) -> tuple[Dialect, ...]:
    """A family's dialects, with a head of its own and with the embedding as its head."""
    return tuple(
        Dialect(
            name=f"megatron-{model_type}{'-tied' if is_tied else ''}",
            trainer="Megatron",
            model_types=(model_type,),
            rows=_rows(*in_attention) if is_tied else (*_rows(*in_attention), HEAD),
            config=ConfigMap(
                at=("args",),
                fields=FIELDS if model_type == "qwen2" else (*FIELDS, HEAD_SIZE),
                constants={
                    "model_type": model_type,
                    "architectures": [architecture],
                    **_constants(model_type, is_tied),
                },
                every_layer={} if model_type == "llama" else {"layer_types": "full_attention"},
                expects={**PLAIN, "untie_embeddings_and_output_weights": (not is_tied, None), **expects},
            ),
            home=Home(
                kind="megatron",
                model=(),
                optimizer=("optimizer",),
                step=("iteration",),
                groups="decayed, vectors",
                others={"checkpoint_version": 3.0},
                head="embedding" if is_tied else "own",
                optimizers=("AdamW",),
                lacks="the schedule's place, in samples (resume with Megatron-LM's override_opt_param_scheduler)",
            ),
            kind="megatron",
        )
        for is_tied in (False, True)
    )


DIALECTS = (
    *_dialects("llama", "LlamaForCausalLM", {}),
    *_dialects("qwen2", "Qwen2ForCausalLM", {"add_qkv_bias": (True,)}, BIAS),
    *_dialects("qwen3", "Qwen3ForCausalLM", {"qk_layernorm": (True,)}, *HEAD_NORMS),
)
