"""Tiny real models of every family, every parameter far from its initialisation, and what tests do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from tests.helpers.lightning_files import HEADS, load_model, save_lightning

VOCABULARY, LENGTH = 40, 12
Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
OWN_NAMES = (
    "gpt2",
    "t5",
    "mpt",
    "gptj",
    "codegen",
    "gpt_bigcode",
    "mt5",
    "distilbert",
    "bart",
    "mbart",
    "pegasus",
    "xglm",
)
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
UNDROPPED = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ROBERTA = {**UNDROPPED, "pad_token_id": 1, "max_position_embeddings": 34}
EXPERTS = {"head_dim": 4, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "n_shared_experts": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}
GPT2 = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 20,
    "n_positions": 32,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
GPTJ = {**GPT2, "bos_token_id": 0, "eos_token_id": 0}
XGLM = {
    "d_model": 16,
    "num_layers": 2,
    "attention_heads": 4,
    "ffn_dim": 20,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "pad_token_id": 1,
}
MODERNBERT = {
    "local_attention": 6,
    "layer_types": ["full_attention", "sliding_attention"],
    "pad_token_id": 0,
    "cls_token_id": 0,
    "sep_token_id": 0,
}
ERNIE = {"moe_num_experts": 3, "moe_k": 2, "moe_intermediate_size": 20}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 6,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 3,
    "v_head_dim": 5,
    "num_key_value_heads": 4,
}
T5 = {
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}
PARTIAL = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
GROUPED = {"num_key_value_heads": 2}
KINDS = ["sliding_attention", "full_attention"]
LOGARITHMIC = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "llama_4_scaling_beta": 0.1,
}

DELTA = {
    **GROUPED,
    "head_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 3,
    "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 3,
    "rope_parameters": PARTIAL,
    "layer_types": ["linear_attention", "full_attention"],
}
STATES = {
    **GROUPED,
    "mamba_n_heads": 4,
    "mamba_d_state": 5,
    "mamba_n_groups": 2,
    "mamba_d_conv": 3,
    "attention_bias": True,
    "mamba_proj_bias": True,
}
HYBRID = {
    **STATES,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.3,
    "shared_intermediate_size": 12,
    "layer_types": ["linear_attention", "full_attention"],
}
JAMBA = {
    **GROUPED,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 0,
    "mamba_d_state": 5,
    "mamba_dt_rank": 3,
    "mamba_d_conv": 3,
}
BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
MINICPM3 = {"scale_emb": 3.0, "scale_depth": 1.4, "dim_model_base": 8}
NEMOTRON_H = {
    **GROUPED,
    "head_dim": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 3,
    "ssm_state_size": 5,
    "n_groups": 2,
    "conv_kernel": 3,
    "n_routed_experts": 4,
    "moe_intermediate_size": 20,
    "moe_shared_expert_intermediate_size": 12,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
}
SHARED = {**EXPERTS, "shared_expert_intermediate_size": 12}

EVEN = {"qk_nope_head_dim": 4}  # pairs of coordinates are turned where they lie
EVERYWHERE_ROUTED = {name: value for name, value in ROUTED.items() if name != "first_k_dense_replace"}
LISTED = {**EVERYWHERE_ROUTED, "mlp_layer_types": ["dense", "sparse"]}
EXAONE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "num_shared_experts": 2,
    "n_group": 2,
    "topk_group": 1,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"],
}
LFM2_MOE = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "routed_scaling_factor": 1.5}
DISTILBERT = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 20,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "qa_dropout": 0.0,
    "seq_classif_dropout": 0.0,
}
FALCON = {"ffn_hidden_size": 20}
GRANITEMOE = {
    **GROUPED,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.3,
    "attention_bias": True,
}

SWASH = {"sliding_window": 5, "layer_types": KINDS, "layer_rope_theta": [0, 100.0]}
COHERE2_MOE = {"num_experts": 3, "num_experts_per_tok": 2, "sliding_window": 5, "layer_types": KINDS}

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "llama": ("llama", {**GROUPED}),
    "llama tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama long heads": ("llama", {**GROUPED, "head_dim": 6}),
    "llama with six heads": ("llama", {**GROUPED, "hidden_size": 24, "num_attention_heads": 6, "head_dim": 4}),
    "mistral": ("mistral", {**GROUPED, "head_dim": None, "sliding_window": 5}),
    "qwen2": ("qwen2", {**GROUPED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 4}),
    "gemma": ("gemma", {**GROUPED, "head_dim": 4, "tie_word_embeddings": True}),
    "gemma untied": ("gemma", {**GROUPED, "head_dim": 6, "tie_word_embeddings": False, "attention_bias": True}),
    "gemma2": ("gemma2", {**GROUPED, "head_dim": 4, "sliding_window": 5, "query_pre_attn_scalar": 4}),
    "gemma3": (
        "gemma3_text",
        {
            **GROUPED,
            "head_dim": 4,
            "sliding_window": 5,
            "query_pre_attn_scalar": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gpt_neox": ("gpt_neox", {"hidden_dropout": 0.0, "rope_parameters": PARTIAL}),
    "gpt_neox serial": (
        "gpt_neox",
        {"use_parallel_residual": False, "tie_word_embeddings": True, "rope_parameters": PARTIAL},
    ),
    "opt": ("opt", {"ffn_dim": 20, "word_embed_proj_dim": 16, "dropout": 0.0}),
    "opt projected": ("opt", {"ffn_dim": 20, "word_embed_proj_dim": 8, "dropout": 0.0}),
    "olmo": ("olmo", {**GROUPED, "clip_qkv": 0.5}),
    "olmo tied": ("olmo", {**GROUPED, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {**GROUPED}),
    "phi": ("phi", {**GROUPED, "qk_layernorm": True, "rope_parameters": PARTIAL}),
    "phi3": ("phi3", {**GROUPED}),
    "starcoder2": ("starcoder2", {**GROUPED, "residual_dropout": 0.0, "embedding_dropout": 0.0}),
    "granite": (
        "granite",
        {
            **GROUPED,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
            "mlp_bias": True,
        },
    ),
    "stablelm": ("stablelm", {**GROUPED, "use_qkv_bias": True, "rope_parameters": PARTIAL}),
    "stablelm parallel": ("stablelm", {**GROUPED, "use_parallel_residual": True, "rope_parameters": PARTIAL}),
    "mixtral": ("mixtral", {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen3_moe": ("qwen3_moe", {**GROUPED, **EXPERTS}),
    "qwen3_moe with a dense layer": ("qwen3_moe", {**GROUPED, **EXPERTS, "mlp_only_layers": [1]}),
    "bert": ("bert", UNDROPPED),
    "roberta": ("roberta", ROBERTA),
    "vit": ("vit", {**UNDROPPED, "image_size": 8, "patch_size": 4, "id2label": {0: "a", 1: "b", 2: "c"}}),
    "t5": ("t5", T5),
    "t5 gated": ("t5", {**T5, "feed_forward_proj": "gated-gelu"}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 16, "n_layers": 2, "n_heads": 4, "hidden_size": 16, "max_seq_len": 32}),
    "smollm3": ("smollm3", {**GROUPED, "no_rope_layers": [1, 0]}),
    "ministral": ("ministral", {**GROUPED, "head_dim": 4, "sliding_window": 5, "layer_types": KINDS}),
    "ministral3": ("ministral3", {**GROUPED, "head_dim": 4, "rope_parameters": LOGARITHMIC}),
    "olmo3": ("olmo3", {**GROUPED, "sliding_window": 5, "layer_types": KINDS}),
    "glm": ("glm", {**GROUPED, "head_dim": 4, "rope_parameters": PARTIAL}),
    "glm4": ("glm4", {**GROUPED, "head_dim": 6, "rope_parameters": PARTIAL}),
    "arcee": ("arcee", {**GROUPED, "mlp_bias": True}),
    "seed_oss": ("seed_oss", {**GROUPED, "head_dim": 4, "residual_dropout": 0.0, "attention_out_bias": True}),
    "ernie4_5": ("ernie4_5", {**GROUPED, "head_dim": 4, "use_bias": True}),
    "ernie4_5 untied": ("ernie4_5", {**GROUPED, "head_dim": 6, "tie_word_embeddings": False}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**GROUPED, "head_dim": 4, "attention_bias": True}),
    "exaone4": ("exaone4", {**GROUPED, "sliding_window": 5, "layer_types": KINDS}),
    "helium": ("helium", {**GROUPED, "head_dim": 4, "attention_bias": True, "mlp_bias": True}),
    "olmoe": ("olmoe", {**GROUPED, "num_experts": 3, "num_experts_per_tok": 2, "clip_qkv": 0.5}),
    "qwen2_moe": ("qwen2_moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 12}),
    "qwen2_moe with a dense layer": (
        "qwen2_moe",
        {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 12, "mlp_only_layers": [1], "norm_topk_prob": True},
    ),
    "granitemoe": (
        "granitemoe",
        GRANITEMOE,
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            **GROUPED,
            "head_dim": 4,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
            "layer_types": KINDS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "apertus": ("apertus", {**GROUPED, "attention_bias": True, "rope_parameters": None}),
    "glm4_moe": ("glm4_moe", {**GROUPED, **ROUTED, "head_dim": 4, "attention_bias": True}),
    "glm4_moe tied": (
        "glm4_moe",
        {**GROUPED, **ROUTED, "head_dim": 6, "tie_word_embeddings": True, "n_group": 1, "topk_group": 1},
    ),
    "dots1": ("dots1", {**GROUPED, **ROUTED, "head_dim": 4, "sliding_window": 5, "max_window_layers": 1}),
    "ernie4_5_moe": ("ernie4_5_moe", {**GROUPED, **ERNIE, "head_dim": 4, "use_bias": True}),
    "ernie4_5_moe untied": (
        "ernie4_5_moe",
        {**GROUPED, **ERNIE, "tie_word_embeddings": False, "moe_num_shared_experts": 0, "moe_layer_start_index": 0},
    ),
    "minimax_m2": (
        "minimax_m2",
        {**GROUPED, "head_dim": 4, "num_local_experts": 3, "num_experts_per_tok": 2, "rope_parameters": PARTIAL},
    ),
    "deepseek_v3": ("deepseek_v3", {**ROUTED, **LATENT, "attention_bias": True}),
    "deepseek_v3 without latent queries": (
        "deepseek_v3",
        {**ROUTED, **LATENT, "q_lora_rank": None, "rope_interleave": False, "tie_word_embeddings": True},
    ),
    "gptj": ("gptj", {**GPTJ, "rotary_dim": 2}),
    "gptj tied": ("gptj", {**GPTJ, "rotary_dim": 4, "tie_word_embeddings": True}),
    "codegen": ("codegen", {**GPTJ, "n_head": 8, "n_embd": 32, "rotary_dim": 2}),
    "gpt_bigcode": ("gpt_bigcode", {**GPTJ, "multi_query": True}),
    "gpt_bigcode of many key heads": ("gpt_bigcode", {**GPTJ, "multi_query": False, "tie_word_embeddings": False}),
    "mt5": ("mt5", T5),
    "nanochat": ("nanochat", {**GROUPED, "attention_bias": True}),
    "eurobert": ("eurobert", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "eurobert tied": ("eurobert", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "modernbert": ("modernbert", {**MODERNBERT, "norm_bias": True, "attention_bias": True, "mlp_bias": True}),
    "modernbert untied": (
        "modernbert",
        {**MODERNBERT, "tie_word_embeddings": False, "classifier_bias": True, "decoder_bias": False},
    ),
    "qwen3_next": ("qwen3_next", {**SHARED, **DELTA}),
    "qwen3_next with a dense layer": (
        "qwen3_next",
        {**SHARED, **DELTA, "linear_num_value_heads": 2, "mlp_only_layers": [0], "attention_bias": True},
    ),
    "qwen3_5_text": ("qwen3_5_text", {**DELTA}),
    "qwen3_5_text tied": (
        "qwen3_5_text",
        {**DELTA, "num_key_value_heads": 1, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "lfm2": ("lfm2", {**GROUPED, "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]}),
    "lfm2 untied": (
        "lfm2",
        {
            **GROUPED,
            "block_multiple_of": 5,
            "tie_word_embeddings": False,
            "conv_bias": True,
            "layer_types": ["full_attention", "conv"],
        },
    ),
    "mamba2": ("mamba2", {"num_heads": 4, "head_dim": 8, "state_size": 6, "n_groups": 2, "use_bias": True}),
    "mamba2 tied": (
        "mamba2",
        {
            "num_heads": 2,
            "head_dim": 24,
            "expand": 3,
            "state_size": 5,
            "n_groups": 1,
            "use_conv_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    "falcon_h1": (
        "falcon_h1",
        {
            **STATES,
            "mamba_d_ssm": 24,
            "mlp_bias": True,
            "projectors_bias": True,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 3.0,
            "mlp_multipliers": [0.8, 1.2],
            "key_multiplier": 0.6,
            "attention_out_multiplier": 0.9,
            "attention_in_multiplier": 1.1,
            "ssm_multipliers": [0.9, 1.1, 0.7, 1.3, 0.5],
            "ssm_in_multiplier": 1.2,
            "ssm_out_multiplier": 0.7,
        },
    ),
    "falcon_h1 normed": (
        "falcon_h1",
        {
            **STATES,
            "num_key_value_heads": 1,
            "mamba_d_ssm": None,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "mamba_proj_bias": False,
            "mamba_conv_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    "bamba": ("bamba", {**STATES, "attn_layer_indices": [1], "mlp_bias": True}),
    "bamba tied": (
        "bamba",
        {**STATES, "attn_layer_indices": [0], "mamba_n_groups": 1, "mamba_expand": 3, "tie_word_embeddings": True},
    ),
    "granitemoehybrid": ("granitemoehybrid", {**HYBRID, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "granitemoehybrid without experts": (
        "granitemoehybrid",
        {
            **HYBRID,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "mamba_conv_bias": False,
            "position_embedding_type": "rope",
            "tie_word_embeddings": True,
        },
    ),
    "modernbert-decoder": ("modernbert-decoder", {**MODERNBERT, "attention_bias": True, "classifier_bias": True}),
    "cohere": ("cohere", {**GROUPED, "attention_bias": True, "logit_scale": 0.5}),
    "cohere normed": ("cohere", {**GROUPED, "use_qk_norm": True, "tie_word_embeddings": False}),
    "cohere2": ("cohere2", {**GROUPED, "attention_bias": True, "sliding_window": 5, "layer_types": KINDS}),
    "cohere2 untied": (
        "cohere2",
        {"num_key_value_heads": 1, "sliding_window": 5, "layer_types": KINDS, "tie_word_embeddings": False},
    ),
    "cwm": ("cwm", {**GROUPED, "head_dim": 6, "mlp_bias": True, "sliding_window": 5, "layer_types": KINDS}),
    "nemotron": ("nemotron", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "nemotron tied": ("nemotron", {"num_key_value_heads": 1, "head_dim": 6, "tie_word_embeddings": True}),
    "jais2": ("jais2", {**GROUPED}),
    "jais2 tied": (
        "jais2",
        {"num_key_value_heads": 1, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True},
    ),
    "persimmon": ("persimmon", {}),
    "persimmon tied": ("persimmon", {"qk_layernorm": False, "tie_word_embeddings": True}),
    "vaultgemma": (
        "vaultgemma",
        {**GROUPED, "head_dim": 4, "sliding_window": 5, "query_pre_attn_scalar": 4, "attention_bias": True},
    ),
    "vaultgemma untied": (
        "vaultgemma",
        {"num_key_value_heads": 1, "head_dim": 6, "sliding_window": 5, "tie_word_embeddings": False},
    ),
    "granitemoeshared": ("granitemoeshared", {**GRANITEMOE, "shared_intermediate_size": 12}),
    "granitemoeshared without a shared block": (
        "granitemoeshared",
        {**GRANITEMOE, "num_key_value_heads": 1, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "flex_olmo": ("flex_olmo", {**GROUPED, "num_experts": 3, "num_experts_per_tok": 2, "attention_bias": True}),
    "flex_olmo tied": (
        "flex_olmo",
        {
            "num_key_value_heads": 1,
            "num_experts": 3,
            "num_experts_per_tok": 1,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        },
    ),
    "hyperclovax": (
        "hyperclovax",
        {
            **GROUPED,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "hyperclovax without post-norms": (
        "hyperclovax",
        {
            "num_key_value_heads": 1,
            "use_post_norm": False,
            "head_dim": 6,
            "tie_word_embeddings": True,
            "mlp_bias": True,
        },
    ),
    "internlm3": ("internlm3", {**GROUPED, "head_dim": 6, "attention_bias": True, "mlp_bias": True}),
    "deepseek_v2": (
        "deepseek_v2",
        {**ROUTED, **LATENT, **EVEN, "attention_bias": True, "mlp_bias": True, "topk_method": "group_limited_greedy"},
    ),
    "deepseek_v2 without latent queries": (
        "deepseek_v2",
        {
            **ROUTED,
            **LATENT,
            **EVEN,
            "q_lora_rank": None,
            "n_group": None,
            "topk_group": None,
            "first_k_dense_replace": 0,
            "tie_word_embeddings": True,
        },
    ),
    "glm4_moe_lite": ("glm4_moe_lite", {**LISTED, **LATENT, "attention_bias": True}),
    "glm4_moe_lite without latent queries": (
        "glm4_moe_lite",
        {
            **LISTED,
            **LATENT,
            "q_lora_rank": None,
            "mlp_layer_types": ["sparse", "dense"],
            "n_group": 1,
            "tie_word_embeddings": True,
        },
    ),
    "youtu": ("youtu", {**LATENT, "attention_bias": True}),
    "youtu untied": ("youtu", {**LATENT, "q_lora_rank": None, "rope_interleave": False, "tie_word_embeddings": False}),
    "phimoe": (
        "phimoe",
        {**GROUPED, "num_local_experts": 3, "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.3},
    ),
    "phimoe tied": (
        "phimoe",
        {
            "num_key_value_heads": 1,
            "head_dim": 6,
            "num_local_experts": 4,
            "router_jitter_noise": 0.3,
            "tie_word_embeddings": True,
        },
    ),
    "solar_open": ("solar_open", {**GROUPED, **EVERYWHERE_ROUTED, "head_dim": 4, "attention_bias": True}),
    "solar_open tied": (
        "solar_open",
        {
            **EVERYWHERE_ROUTED,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "n_shared_experts": 1,
            "tie_word_embeddings": True,
        },
    ),
    "exaone_moe": ("exaone_moe", {**GROUPED, **EXAONE, "mlp_layer_types": ["dense", "sparse"]}),
    "exaone_moe tied": (
        "exaone_moe",
        {
            **EXAONE,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "mlp_layer_types": ["sparse", "dense"],
            "tie_word_embeddings": True,
        },
    ),
    "lfm2_moe": ("lfm2_moe", {**GROUPED, **LFM2_MOE, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]}),
    "lfm2_moe untied": (
        "lfm2_moe",
        {
            **LFM2_MOE,
            "num_key_value_heads": 1,
            "num_dense_layers": 0,
            "use_expert_bias": False,
            "conv_bias": True,
            "tie_word_embeddings": False,
            "layer_types": ["full_attention", "conv"],
        },
    ),
    "qwen3_5_moe_text": ("qwen3_5_moe_text", {**SHARED, **DELTA, "num_experts": 4}),
    "qwen3_5_moe_text tied": (
        "qwen3_5_moe_text",
        {
            **SHARED,
            **DELTA,
            "num_experts": 4,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "attention_bias": True,
        },
    ),
    "hunyuan_v1_moe": (
        "hunyuan_v1_moe",
        {**GROUPED, "head_dim": 4, "num_experts": 3, "moe_topk": 2, "attention_bias": True},
    ),
    "hunyuan_v1_moe tied": (
        "hunyuan_v1_moe",
        {"num_key_value_heads": 1, "head_dim": 6, "num_experts": 3, "moe_topk": 1, "tie_word_embeddings": True},
    ),
    "distilbert": (
        "distilbert",
        {**DISTILBERT, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": None},
    ),
    "distilbert untied": ("distilbert", {**DISTILBERT, "tie_word_embeddings": False}),
    "mamba": ("mamba", {"state_size": 5, "time_step_rank": 3, "use_bias": True, "use_associative_scan": False}),
    "mamba untied": (
        "mamba",
        {
            "state_size": 4,
            "time_step_rank": 2,
            "expand": 3,
            "intermediate_size": 48,
            "conv_kernel": 3,
            "use_conv_bias": False,
            "tie_word_embeddings": False,
        },
    ),
    "falcon_mamba": ("falcon_mamba", {"state_size": 5, "time_step_rank": 3, "use_bias": True}),
    "falcon_mamba untied": ("falcon_mamba", {"state_size": 4, "time_step_rank": "auto", "tie_word_embeddings": False}),
    "falcon": ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon of one key head": ("falcon", {**FALCON, "tie_word_embeddings": False}),
    "falcon serial": ("falcon", {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True}),
    "falcon of one norm": (
        "falcon",
        {
            **FALCON,
            "new_decoder_architecture": True,
            "num_kv_heads": 1,
            "num_ln_in_parallel_attn": 1,
            "tie_word_embeddings": False,
        },
    ),
    "biogpt": ("biogpt", {**UNDROPPED, "layerdrop": 0.0}),
    "biogpt unscaled": ("biogpt", {**UNDROPPED, "layerdrop": 0.0, "scale_embedding": False}),
    "biogpt untied": ("biogpt", {**UNDROPPED, "layerdrop": 0.0, "tie_word_embeddings": False}),
    "iquestcoder": ("iquestcoder", {**GROUPED, "head_dim": 6, "attention_bias": True}),
    "gpt_neo": ("gpt_neo", {"attention_layers": ["global", "local"], "window_size": 5}),
    "gpt_neo untied": ("gpt_neo", {"attention_layers": ["local", "global"], "tie_word_embeddings": False}),
    "jamba": ("jamba", {**JAMBA, "num_experts": 3, "num_experts_per_tok": 2}),
    "jamba of one expert": (
        "jamba",
        {**JAMBA, "num_experts": 1, "mamba_conv_bias": False, "mamba_proj_bias": True, "tie_word_embeddings": True},
    ),
    "minicpm3": ("minicpm3", {**LATENT, **MINICPM3, "attention_bias": True, "mlp_bias": True}),
    "minicpm3 untied": ("minicpm3", {**LATENT, **MINICPM3, "q_lora_rank": None, "tie_word_embeddings": False}),
    "nemotron_h": ("nemotron_h", {**NEMOTRON_H, "layers_block_type": ["moe", "full_attention"]}),
    "nemotron_h of states": (
        "nemotron_h",
        {**NEMOTRON_H, "use_bias": True, "layers_block_type": ["linear_attention", "full_attention"]},
    ),
    "nemotron_h dense": (
        "nemotron_h",
        {**NEMOTRON_H, "mlp_bias": True, "layers_block_type": ["full_attention", "mlp"]},
    ),
    "nemotron_h with latent experts": (
        "nemotron_h",
        {
            **NEMOTRON_H,
            "mlp_bias": True,
            "moe_latent_size": 7,
            "layers_block_type": ["full_attention", "moe"],
        },
    ),
    "bart": ("bart", BART),
    "bart scaled": ("bart", {**BART, "scale_embedding": True, "decoder_attention_heads": 2, "decoder_ffn_dim": 12}),
    "mbart": ("mbart", {**BART, "scale_embedding": True}),
    "mbart unscaled": ("mbart", {**BART, "encoder_attention_heads": 2, "encoder_ffn_dim": 12}),
    "pegasus": ("pegasus", {**BART, "scale_embedding": True}),
    "pegasus unscaled": ("pegasus", {**BART, "decoder_attention_heads": 2}),
    "xlm-roberta": ("xlm-roberta", ROBERTA),
    "camembert": ("camembert", ROBERTA),
    "cohere2_moe": (
        "cohere2_moe",
        {
            **GROUPED,
            **COHERE2_MOE,
            "head_dim": 4,
            "attention_bias": True,
            "mlp_layer_types": ["dense", "sparse"],
            "prefix_dense_intermediate_size": 14,
            "num_shared_experts": 2,
        },
    ),
    "cohere2_moe of sigmoids": (
        "cohere2_moe",
        {
            **COHERE2_MOE,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "mlp_layer_types": ["sparse", "dense"],
            "rms_norm_eps": 1e-5,
            "expert_selection_fn": "sigmoid",
            "tie_word_embeddings": False,
        },
    ),
    "granite_swa": ("granite_swa", {**GRANITEMOE, **SWASH, "mlp_bias": True}),
    "granite_swa untied": (
        "granite_swa",
        {**SWASH, "num_key_value_heads": 1, "head_dim": 6, "tie_word_embeddings": False},
    ),
    "granitemoe_swa": ("granitemoe_swa", {**GRANITEMOE, **SWASH}),
    "granitemoe_swa tied": (
        "granitemoe_swa",
        {**GRANITEMOE, **SWASH, "num_key_value_heads": 1, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "xglm": ("xglm", XGLM),
    "xglm unscaled": ("xglm", {**XGLM, "scale_embedding": False, "tie_word_embeddings": False}),
}
OPT = {"ffn_dim": 20, "dropout": 0.0, "word_embed_proj_dim": 16}
GAINLESS, POST = {"layer_norm_elementwise_affine": False}, {"do_layer_norm_before": False}
NARROW, UNTIED = {"word_embed_proj_dim": 8}, {"tie_word_embeddings": False}
T5_DEEP = {**T5, "num_layers": 3, "num_decoder_layers": 1}
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # what few configs of a family say
    "opt-350m": ("opt", {**OPT, **POST, **NARROW}),
    "opt post-norm untied": ("opt", {**OPT, **POST, **UNTIED}),
    "opt post-norm without gains": ("opt", {**OPT, **POST, **GAINLESS, **NARROW}),
    "opt without gains": ("opt", {**OPT, **GAINLESS, **UNTIED}),
    "opt without gains, projected": ("opt", {**OPT, **GAINLESS, **NARROW}),
    "opt without final norm": ("opt", {**OPT, "_remove_final_layer_norm": True, **NARROW}),
    "opt without final norm, untied": ("opt", {**OPT, "_remove_final_layer_norm": True, **UNTIED}),
    "opt without biases": ("opt", {**OPT, "enable_bias": False}),
    "t5 of unequal stacks": ("t5", {**T5, "num_layers": 1, "num_decoder_layers": 3}),
    "t5 with a deep encoder": ("t5", {**T5_DEEP, "feed_forward_proj": "gated-gelu"}),
    "llama of one key head": ("llama", {"num_key_value_heads": 1}),
    "opt tied without gains": ("opt", {**OPT, **GAINLESS}),
    "opt tied post-norm": ("opt", {**OPT, **POST}),
    "opt tied without final norm": ("opt", {**OPT, "_remove_final_layer_norm": True}),
}
TIED_WITHOUT_A_GAIN = [case for case in VARIANTS if case.startswith("opt tied")]
ALIBI = ("bloom", "mpt")
SINES = ("xglm", "xglm unscaled")  # of the hidden size, which therefore stays
UNWIDENED = (*ALIBI, *SINES)
POST_NORM = ("bert", "roberta", "distilbert", "distilbert untied", "xlm-roberta", "camembert", "bart", "bart scaled")
UNFED = (
    "mamba2",
    "mamba2 tied",
    "granitemoehybrid without experts",
    "mamba",
    "mamba untied",
    "falcon_mamba",
    "falcon_mamba untied",
    "nemotron_h of states",
    "nemotron_h dense",
)  # without feed-forward units of this name
WIDER = [case for case in CASES if case not in (*UNWIDENED, "olmo tied")]
FIRST_APART = [case for case in CASES if case.startswith("modernbert")]  # their first layer has a norm less
PERIODIC = [case for case in CASES if CASES[case][0] == "jamba"]  # their kinds of layers come round
# layers of deeper ones, where new ones cannot lie anywhere
LAYERS_OF = {case: [0, 1, 1, 1] for case in FIRST_APART} | {case: [0, 1, 0, 1] for case in PERIODIC}
DEEPER = [case for case in CASES if case not in POST_NORM]
COUNTED = ("first_k_dense_replace", "num_dense_layers")
DENSE_FIRST = [case for case in CASES if any(CASES[case][1].get(field) for field in COUNTED)]
FIRST = list({CASES[case][0]: case for case in reversed(CASES)}.values())  # one a family
NO_ZERO_NORM = ("olmo", "t5", "apertus", "mt5", "nanochat", "mbart", "pegasus")
# the decay of a gain stored without its 1 pulls the gain to 1, which no learning rate can scale
UNDECAYED = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "qwen3_next",
    "qwen3_5_text",
    "vaultgemma",
    "nemotron",
    "qwen3_5_moe_text",
)


class InFloat64(TorchFunctionMode):
    """Float64 wherever a model's own code casts to float32, so that exactness shows to 1e-12."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = [torch.float64 if one is torch.float32 else one for one in args]
        kwargs = {name: torch.float64 if one is torch.float32 else one for name, one in (kwargs or {}).items()}
        return func(*args, **kwargs)


def perturbed(case: str, seed: int = 0, **more: Any) -> PreTrainedModel:
    """In float64 and evaluation mode; `more`: fields of the config besides the case's."""
    model_type, fields = {**CASES, **VARIANTS}[case]
    common = {} if model_type in OWN_NAMES else {"attention_dropout": 0.0, **COMMON}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{"vocab_size": VOCABULARY, **common, **fields, **more})
    model = built(config)
    scale = 0.5 if model_type in ("t5", "mt5") else 1.0  # its scores are not divided by √head, and would be sharp
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale * (0.2 if parameter.dim() > 1 else 0.4))
        for name, buffer in model.named_buffers():
            if name.endswith(("e_score_correction_bias", "expert_bias")):
                buffer.add_(torch.randn_like(buffer) * 0.1)
    return model


def built(config: PreTrainedConfig) -> PreTrainedModel:
    """In float64; gemma's √hidden too, which its models hold in float32."""
    model = HEADS.get(config.model_type, AutoModelForCausalLM).from_config(config)
    return widened(model)


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float64 and evaluation mode."""
    model.config._experts_implementation = "eager"  # torch's grouped matrix product has no float64
    for module in model.double().modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale.fill_(module.scalar_embed_scale)
    return model.eval()


def generated(model: PreTrainedModel) -> torch.Tensor:
    """Twenty greedy tokens after two prompts of six, by transformers' own generation with its cache."""
    prompts = batches(1, seed=5)[0][:, :6]
    with of_its_dtype(model):
        return model.generate(prompts, max_new_tokens=20, min_new_tokens=20, do_sample=False, pad_token_id=0)


def reloaded(like: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """The model of a directory through transformers alone, which must miss nothing and know everything in it.

    What its class would keep in float32 (routers) is read in float64 as everything else.
    """
    with patch.object(type(like), "_keep_in_fp32_modules_strict", None):
        model, report = type(like).from_pretrained(directory, dtype=torch.float64, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return widened(model)


def batches(num: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(1, VOCABULARY, (num, 2, LENGTH), generator=generator))


def images(tokens: torch.Tensor) -> torch.Tensor:
    """An image a sequence, drawn from it."""
    return torch.stack([torch.sin(row.double().sum() * torch.arange(1.0, 193.0)) for row in tokens]).reshape(
        -1, 3, 8, 8
    )


@contextmanager
def of_its_dtype(model: PreTrainedModel) -> Iterator[None]:
    """Where a family's code makes the smallest number of the model's dtype without saying of which."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype if model.config.model_type == "xglm" else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def outputs(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with of_its_dtype(model):
        return _outputs(model, tokens)


def _outputs(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    if model.config.model_type == "vit":
        return model(pixel_values=images(tokens)).logits[:, None].expand(-1, 2, -1)
    if model.config.is_encoder_decoder:
        return model(input_ids=tokens, decoder_input_ids=tokens.flip(0)).logits
    return model(input_ids=tokens).logits


def trained(model: PreTrainedModel, optimizer: torch.optim.Optimizer, samples: Sequence[torch.Tensor]) -> list[float]:
    """The losses before each step."""
    losses: list[float] = []
    for tokens in samples:
        optimizer.zero_grad(set_to_none=True)
        with InFloat64():
            logits = outputs(model, tokens)
            targets = tokens[:, 1 : logits.shape[1]] % logits.shape[2]
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def adamw(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.1, eps=1e-6)


def undecayed(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0, eps=1e-6)


def still(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """It gathers moments and moves nothing."""
    return torch.optim.AdamW(parameters, lr=0.0)


def saved(path: Path, model: PreTrainedModel, build: Optimizer) -> Path:
    """A checkpoint after five steps."""
    optimizer = build(model.parameters())
    trained(model, optimizer, batches(5))
    return save_lightning(path, model, [optimizer])


def still_run(path: Path, case: str) -> Path:
    """What `saved` writes of `perturbed(case)` under `still`, which is the same file in every test."""
    path.write_bytes(_still_run(case))
    return path


@cache
def _still_run(case: str) -> bytes:
    with TemporaryDirectory() as directory:
        return saved(Path(directory, "small.ckpt"), perturbed(case), still).read_bytes()


def loaded(path: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a checkpoint in float64, through transformers and torch alone, and the whole file."""
    model, tree = load_model(path)
    return widened(model), tree


def difference(one: PreTrainedModel, other: PreTrainedModel) -> tuple[float, float]:
    """The largest difference of logits, relative to the largest logit: in float64 throughout, and as the models are."""
    return _difference(one, other, InFloat64), _difference(one, other, torch.no_grad)


def _difference(one: PreTrainedModel, other: PreTrainedModel, mode: Callable[[], Any]) -> float:
    worst = largest = 0.0
    for tokens in batches(2, seed=7):
        with torch.no_grad(), mode():
            first, second = outputs(one, tokens), outputs(other, tokens)
        worst, largest = max(worst, float((first - second).abs().max())), max(largest, float(first.abs().max()))
    return worst / largest
