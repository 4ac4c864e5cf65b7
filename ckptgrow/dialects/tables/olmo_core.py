"""OLMo-core: one class of its own, whose config tells the family block by block; nothing is joined or turned.

Source: Allen Institute for AI, OLMo-core, `nn/transformer/config.py`, `nn/attention/__init__.py` and
`train/checkpoint.py`, of version 3.0.0; earlier versions call the config's `sequence_mixer` `attention`.
"""

from collections.abc import Mapping
from typing import Any

from ckptgrow.dialects.dialect import ConfigMap, Dialect, Home, Row

THEIR, OUR = "blocks.{layer}.", "model.layers.{layer}."
RMS = ("rms", "fused_rms", "cute_rms", "qwen_rms")  # equal in exact arithmetic
MIXERS = {"": "sequence_mixer", "-old": "attention"}
ATTENTION = (
    Row(THEIR + "attention.w_q.weight", OUR + "self_attn.q_proj.weight"),
    Row(THEIR + "attention.w_k.weight", OUR + "self_attn.k_proj.weight"),
    Row(THEIR + "attention.w_v.weight", OUR + "self_attn.v_proj.weight"),
    Row(THEIR + "attention.w_out.weight", OUR + "self_attn.o_proj.weight"),
)
HEAD_NORMS = (
    Row(THEIR + "attention.q_norm.weight", OUR + "self_attn.q_norm.weight"),
    Row(THEIR + "attention.k_norm.weight", OUR + "self_attn.k_norm.weight"),
)
FFN = (
    Row(THEIR + "feed_forward.w1.weight", OUR + "mlp.gate_proj.weight"),
    Row(THEIR + "feed_forward.w2.weight", OUR + "mlp.down_proj.weight"),
    Row(THEIR + "feed_forward.w3.weight", OUR + "mlp.up_proj.weight"),
)
BEFORE = ("input_layernorm", "post_attention_layernorm")
BEHIND = ("post_attention_layernorm", "post_feedforward_layernorm")

HOME = Home(
    kind="dcp",
    model=("model",),
    optimizer=("optim",),
    step=(),  # among what only its trainer can write
    groups="names",
    folder="model_and_optim",
)


def _rows(norms: tuple[str, str], *in_attention: Row) -> tuple[Row, ...]:
    """The rows of a family with such norms, and with further ones of the attention."""
    return (
        Row("embeddings.weight", "model.embed_tokens.weight"),
        *(*ATTENTION, *in_attention),
        Row(THEIR + "attention_norm.weight", f"{OUR}{norms[0]}.weight"),
        *FFN,
        Row(THEIR + "feed_forward_norm.weight", f"{OUR}{norms[1]}.weight"),
        Row("lm_head.norm.weight", "model.norm.weight"),
        Row("lm_head.w_out.weight", "lm_head.weight"),
    )


def _fields(model_type: str, mixer: str) -> tuple[tuple[str, str], ...]:
    return (
        ("d_model", "hidden_size"),
        ("vocab_size", "vocab_size"),
        ("n_layers", "num_hidden_layers"),
        (f"block.{mixer}.n_heads", "num_attention_heads"),
        (f"block.{mixer}.n_kv_heads", "num_key_value_heads"),
        *(((f"block.{mixer}.head_dim", "head_dim"),) if model_type != "olmo2" else ()),
        (f"block.{mixer}.rope.theta", "rope_theta"),
        ("block.feed_forward.hidden_size", "intermediate_size"),
        ("block.layer_norm.eps", "rms_norm_eps"),
        ("lm_head.layer_norm.eps", "rms_norm_eps"),
        *(((f"block.{mixer}.qk_norm.eps", "rms_norm_eps"),) if model_type != "llama" else ()),
    )


def _plain(mixer: str) -> Mapping[str, tuple[Any, ...]]:
    """What every family's config says; what is None may be left out."""
    return {
        "name": ("default",),
        "tie_word_embeddings": (False, None),
        **dict.fromkeys(("block_pattern", "block_overrides", "embedding_norm", "embed_scale"), (None,)),
        **({"block.sequence_mixer.type": ("attention", None)} if mixer == "sequence_mixer" else {}),
        "block.dropout": (None, 0.0),
        **dict.fromkeys(("block.attention_residual_alpha", "block.feed_forward_residual_alpha"), (None,)),
        "block.feed_forward_moe": (None,),
        f"block.{mixer}.name": ("default",),
        f"block.{mixer}.bias": (False,),
        f"block.{mixer}.dropout": (None, 0.0),
        f"block.{mixer}.rope.name": ("default", "fused"),
        f"block.{mixer}.rope.scaling": (None,),
        f"block.{mixer}.rope.no_global_rope": (False, None),
        f"block.{mixer}.rope.partial_rotary_factor": (1.0, None),
        **dict.fromkeys((f"block.{mixer}.gate", f"block.{mixer}.clip_qkv", f"block.{mixer}.sliding_window"), (None,)),
        f"block.{mixer}.scalable_softmax": (False, None),
        f"block.{mixer}.attention_sinks": (False, None),
        f"block.{mixer}.qk_norm_per_head_gains": (None, False),
        **_norm("block.layer_norm"),
        **_norm("lm_head.layer_norm"),
        "block.feed_forward.name": ("default",),
        "block.feed_forward.bias": (False,),
        "block.feed_forward.activation": ("silu", None),
        "lm_head.name": ("default",),
        "lm_head.bias": (False,),
    }


def _norm(at: str) -> Mapping[str, tuple[Any, ...]]:
    return {f"{at}.name": RMS, f"{at}.bias": (False, None), f"{at}.elementwise_affine": (True, None)}


def _dialects(model_type: str, block: str, rows: tuple[Row, ...], architecture: str) -> tuple[Dialect, ...]:
    """A family's dialects: of the config as it is since version 3, which `convert` writes, and as it was."""
    return tuple(
        Dialect(
            name=f"olmo-core-{model_type}{age}",
            trainer="OLMo-core",
            model_types=(model_type,),
            rows=rows,
            config=ConfigMap(
                at=("config.json", "model"),
                fields=_fields(model_type, mixer),
                constants={
                    "model_type": model_type,
                    "architectures": [architecture],
                    "tie_word_embeddings": False,
                    "rms_norm_eps": 1e-5,  # where its config leaves it out
                    "bos_token_id": None,
                    "eos_token_id": None,
                    "pad_token_id": None,
                    "attention_bias": False,
                    "attention_dropout": 0.0,
                    **({"mlp_bias": False} if model_type == "llama" else {}),
                },
                quotients={"head_dim": ("hidden_size", "num_attention_heads")},
                every_layer={"layer_types": "full_attention"} if model_type == "qwen3" else {},
                expects={**_plain(mixer), "block.name": (block,), **_head_norms(model_type, mixer)},
            ),
            home=None if age else HOME,
        )
        for age, mixer in MIXERS.items()
    )


def _head_norms(model_type: str, mixer: str) -> Mapping[str, tuple[Any, ...]]:
    """Whether queries and keys are normed, and each head by itself."""
    if model_type == "llama":
        return {f"block.{mixer}.qk_norm": (None,)}
    by_head = (True,) if model_type == "qwen3" else (False, None)
    return {**_norm(f"block.{mixer}.qk_norm"), f"block.{mixer}.use_head_qk_norm": by_head}


DIALECTS = (
    *_dialects("llama", "default", _rows(BEFORE), "LlamaForCausalLM"),
    *_dialects("olmo2", "reordered_norm", _rows(BEHIND, *HEAD_NORMS), "Olmo2ForCausalLM"),
    *_dialects("qwen3", "default", _rows(BEFORE, *HEAD_NORMS), "Qwen3ForCausalLM"),
)
