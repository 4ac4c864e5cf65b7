"""llm-foundry's MPT: transformers' names and forms, and a config of its own, which also says models that transformers'
MPT is not.

Composer keeps the config among its integrations.

Source: MosaicML, llm-foundry, `models/mpt/configuration_mpt.py` and `models/utils/config_defaults.py`, of version 0.22;
Composer 0.32, `models/huggingface.py` (`get_metadata`).
"""

from dataclasses import replace

from ckptgrow.dialects.dialect import ConfigMap, Dialect, Row

LAYER = "transformer.blocks.{layer}."
NAMES = (
    "transformer.wte.weight",
    LAYER + "norm_1.weight",
    LAYER + "attn.Wqkv.weight",
    LAYER + "attn.out_proj.weight",
    LAYER + "norm_2.weight",
    LAYER + "ffn.up_proj.weight",
    LAYER + "ffn.down_proj.weight",
    "transformer.norm_f.weight",
)
SAME = ("d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len", "resid_pdrop", "emb_pdrop")

CONFIG = ConfigMap(
    at=("integrations", "huggingface", "model", "config", "content"),
    fields=(
        *((name, name) for name in SAME),
        ("norm_eps", "layer_norm_epsilon"),
        ("tie_word_embeddings", "tie_word_embeddings"),
    ),
    constants={
        "model_type": "mpt",
        "architectures": ["MptForCausalLM"],
        "expansion_ratio": 4,
        "no_bias": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    },
    expects={
        "model_type": ("mpt",),
        "no_bias": (True,),
        "attention_bias": (False, None),
        "expansion_ratio": (4,),
        "head_dim": (None,),
        "logit_scale": (None,),
        "embedding_fraction": (1.0,),
        "norm_type": ("low_precision_layernorm", "layernorm"),
        "block_overrides": (None,),
        "final_logit_softcapping": (None,),
        "ffn_config.ffn_type": ("mptmlp", None),
        "ffn_config.ffn_act_fn": (None,),
        "attn_config.attn_type": ("multihead_attention",),
        "attn_config.alibi": (True,),
        "attn_config.alibi_bias_max": (8, None),
        **dict.fromkeys(
            (f"attn_config.{name}" for name in ("rope", "nope", "qk_ln", "qk_gn", "prefix_lm")), (False, None)
        ),
        **dict.fromkeys((f"attn_config.{name}" for name in ("clip_qkv", "softmax_scale", "kv_dim")), (None,)),
        "attn_config.fused_qkv": (True, None),
        "attn_config.sliding_window_size": (-1, None),
        "attn_config.attn_logit_softcapping": (None,),
        "attn_config.attn_temperature_tuning.attn_scale": (0.0, None),
    },
)

TIED = Dialect(
    name="llm-foundry-mpt",
    trainer="llm-foundry",
    model_types=("mpt",),
    rows=tuple(Row(name, name) for name in NAMES),
    config=CONFIG,
)
DIALECTS = (
    TIED,
    replace(TIED, name="llm-foundry-mpt-untied", rows=(*TIED.rows, Row("lm_head.weight", "lm_head.weight"))),
)
