"""litgpt: one class of its own for many families, whose config tells which; q, k and v one after the other.

Source: Lightning AI, litgpt, `model.py` and `config.py`, of version 0.5.13.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckptgrow.dialects.dialect import ConfigMap, Dialect, Home, Row

THEIR, OUR = "transformer.h.{layer}.", "model.layers.{layer}."
QKV = Row(THEIR + "attn.qkv.weight", *(f"{OUR}self_attn.{letter}_proj.weight" for letter in "qkv"), how="join")
QKV_BIAS = Row(THEIR + "attn.qkv.bias", *(f"{OUR}self_attn.{letter}_proj.bias" for letter in "qkv"), how="join")
OUTPUT = Row(THEIR + "attn.proj.weight", OUR + "self_attn.o_proj.weight")
HEAD_NORMS = (
    Row(THEIR + "attn.norm_q.weight", OUR + "self_attn.q_norm.weight"),
    Row(THEIR + "attn.norm_k.weight", OUR + "self_attn.k_norm.weight"),
)
GATE, UP = THEIR + "mlp.fc_1.weight", THEIR + "mlp.fc_2.weight"
GATED_FFN = (
    Row(GATE, OUR + "mlp.gate_proj.weight"),
    Row(UP, OUR + "mlp.up_proj.weight"),
    Row(THEIR + "mlp.proj.weight", OUR + "mlp.down_proj.weight"),
)
BEFORE_ATTENTION = Row(THEIR + "norm_1.weight", OUR + "input_layernorm.weight")
BEFORE_ATTENTION_BIAS = Row(THEIR + "norm_1.bias", OUR + "input_layernorm.bias")
BEFORE_FFN = Row(THEIR + "norm_2.weight", OUR + "post_attention_layernorm.weight")
BEFORE_FFN_BIAS = Row(THEIR + "norm_2.bias", OUR + "post_attention_layernorm.bias")
HEAD = Row("lm_head.weight", "lm_head.weight")
EMBEDDING = Row("transformer.wte.weight", "model.embed_tokens.weight")
FINAL = Row("transformer.ln_f.weight", "model.norm.weight")

SIZES = (
    ("n_layer", "num_hidden_layers"),
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("intermediate_size", "intermediate_size"),
    ("padded_vocab_size", "vocab_size"),
    ("block_size", "max_position_embeddings"),
    ("rope_base", "rope_theta"),
)
GROUPED = (*SIZES, ("n_query_groups", "num_key_value_heads"), ("head_size", "head_dim"))
ANYTHING = ()  # a field that a family's map reads
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "norm_class_name": ("RMSNorm",),
    "mlp_class_name": ("LLaMAMLP",),
    "bias": (False,),
    "attn_bias": (False, None),
    "lm_head_bias": (False,),
    "parallel_residual": (False,),
    "shared_attention_norm": (False,),
    "rotary_percentage": (1.0,),
    "rope_adjustments": (None,),
    "rope_condense_ratio": (1,),
    "rope_interleave": (False, None),
    "rope_local_base_freq": (None,),
    "sliding_window_size": (None,),
    "sliding_window_indices": (None,),
    "rope_indices": (None,),
    "attention_scores_scalar": (None,),
    "attention_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "scale_embeddings": (False,),
    "norm_qk": (False, None),
    "norm_1": (True, None),
    "norm_2": (True, None),
    "post_attention_norm": (False, None),
    "post_mlp_norm": (False, None),
    "n_expert": (0,),
    "latent_attention": (None,),
}


def litgpt_dialect(
    model_type: str,
    rows: tuple[Row, ...],
    fields: tuple[tuple[str, str], ...],
    expects: Mapping[str, tuple[Any, ...]],
    name: str = "",
    **constants: Any,
) -> Dialect:
    """A family's dialect; by a part of the model's `name` litgpt chooses its norms."""
    return Dialect(
        name=f"litgpt-{model_type}",
        trainer="litgpt",
        model_types=(model_type,),
        rows=rows,
        config=ConfigMap(
            at=("model_config.yaml",),
            fields=fields,
            constants={"model_type": model_type, "bos_token_id": None, "eos_token_id": None, **constants},
            expects={name: allowed for name, allowed in {**PLAIN, **expects}.items() if allowed},
            contains={"name": name} if name else {},
        ),
        home=Home(
            kind="torch-files",
            model=("lit_model.pth", "model"),
            optimizer=("lit_model.pth", "optimizer"),
            step=("lit_model.pth", "step_count"),
            groups="one",
            head="either",  # by `--train.tie_embeddings`
        ),
    )


def with_map(dialect: Dialect, **changes: Any) -> Dialect:
    """A dialect with other fields of its ConfigMap."""
    assert dialect.config is not None
    return replace(dialect, config=replace(dialect.config, **changes))


def llama_rows(*in_attention: Row) -> tuple[Row, ...]:
    """Llama's rows, with further ones of the attention."""
    biases = tuple(row for row in in_attention if row is QKV_BIAS)
    norms = tuple(row for row in in_attention if row is not QKV_BIAS)
    attention = (QKV, *biases, OUTPUT, *norms)
    return (HEAD, EMBEDDING, BEFORE_ATTENTION, *attention, BEFORE_FFN, *GATED_FFN, FINAL)


def _both(theirs: str, ours: str, steps: str = "") -> tuple[Row, Row]:
    """Weight and bias of one of GPT-NeoX' modules."""
    ours = f"{steps}gpt_neox.layers.{{layer}}.{ours}"
    return Row(f"{THEIR}{theirs}.weight", f"{ours}.weight"), Row(f"{THEIR}{theirs}.bias", f"{ours}.bias")


RMS = (*GROUPED, ("norm_eps", "rms_norm_eps"))
SCALED_ROTARY = (  # Llama 3.1's
    ("rope_adjustments.factor", "rope_scaling.factor"),
    ("rope_adjustments.low_freq_factor", "rope_scaling.low_freq_factor"),
    ("rope_adjustments.high_freq_factor", "rope_scaling.high_freq_factor"),
    ("rope_adjustments.original_max_seq_len", "rope_scaling.original_max_position_embeddings"),
)
WINDOW = ("sliding_window_size", "sliding_window")
IN_ALL_LAYERS: Mapping[str, Any] = {"sliding_window_indices": 1}
WITHOUT_WINDOW: Mapping[str, Any] = {"layer_types": "full_attention"}
UNBIASED: Mapping[str, Any] = {"attention_bias": False, "attention_dropout": 0.0}
WITHOUT_DROPOUT: Mapping[str, Any] = {"attention_dropout": 0.0, "hidden_dropout": 0.0}

DIALECTS = (
    litgpt_dialect(
        "llama",
        llama_rows(),
        (*RMS, *SCALED_ROTARY),
        {"rope_adjustments": ANYTHING},
        **{"rope_scaling.rope_type": "llama3"},
        architectures=["LlamaForCausalLM"],
        mlp_bias=False,
        **UNBIASED,
    ),
    with_map(
        litgpt_dialect(
            "mistral",
            llama_rows(),
            (*RMS, WINDOW),
            dict.fromkeys(("sliding_window_size", "sliding_window_indices"), ANYTHING),
            architectures=["MistralForCausalLM"],
            attention_dropout=0.0,
        ),
        needs=("sliding_window_size",),  # without windows it is a Llama
        alike=IN_ALL_LAYERS,
    ),
    with_map(
        litgpt_dialect(
            "phi3",
            (
                *(HEAD, EMBEDDING, BEFORE_ATTENTION),
                Row(THEIR + "attn.qkv.weight", OUR + "self_attn.qkv_proj.weight"),
                *(OUTPUT, BEFORE_FFN),
                Row(
                    (THEIR + "mlp.fc_1.weight", THEIR + "mlp.fc_2.weight"), OUR + "mlp.gate_up_proj.weight", how="join"
                ),
                Row(THEIR + "mlp.proj.weight", OUR + "mlp.down_proj.weight"),
                FINAL,
            ),
            (
                *RMS,
                WINDOW,
                ("rotary_percentage", "partial_rotary_factor"),
            ),
            {
                "rotary_percentage": (1.0, 0.75, 0.5),
                **dict.fromkeys(("sliding_window_size", "sliding_window_indices"), ANYTHING),
            },
            name="Phi-",  # else a Llama or a Mistral with the same tensors
            architectures=["Phi3ForCausalLM"],
            pad_token_id=None,
            **dict.fromkeys(("attention_dropout", "embd_pdrop", "resid_pdrop"), 0.0),
        ),
        alike=IN_ALL_LAYERS,
    ),
    with_map(
        litgpt_dialect(
            "qwen2",
            llama_rows(QKV_BIAS),
            RMS,
            {"attn_bias": (True,)},
            architectures=["Qwen2ForCausalLM"],
            attention_dropout=0.0,
        ),
        every_layer=WITHOUT_WINDOW,
    ),
    with_map(
        litgpt_dialect(
            "qwen3",
            llama_rows(*HEAD_NORMS),
            RMS,
            {"norm_qk": (True,), "norm_qk_type": ("default",)},
            architectures=["Qwen3ForCausalLM"],
            **UNBIASED,
        ),
        every_layer=WITHOUT_WINDOW,
    ),
    litgpt_dialect(
        "olmo",
        (HEAD, EMBEDDING, QKV, OUTPUT, *GATED_FFN),
        GROUPED,
        {"norm_class_name": ("LayerNorm",), "norm_eps": (1e-5,)},
        name="OLMo",  # whose norms have no gains
        architectures=["OlmoForCausalLM"],
        clip_qkv=None,
        **UNBIASED,
    ),
    litgpt_dialect(
        "olmo2",
        (
            *(HEAD, EMBEDDING, QKV, OUTPUT, *HEAD_NORMS),
            Row(THEIR + "post_attention_norm.weight", OUR + "post_attention_layernorm.weight"),
            *GATED_FFN,
            Row(THEIR + "post_mlp_norm.weight", OUR + "post_feedforward_layernorm.weight"),
            FINAL,
        ),
        RMS,
        {
            "norm_qk": (True,),
            "norm_qk_type": ("olmo2",),
            "norm_1": (False,),
            "norm_2": (False,),
            "post_attention_norm": (True,),
            "post_mlp_norm": (True,),
        },
        architectures=["Olmo2ForCausalLM"],
        **UNBIASED,
    ),
    litgpt_dialect(
        "stablelm",
        (
            *(HEAD, EMBEDDING, BEFORE_ATTENTION, BEFORE_ATTENTION_BIAS, QKV, OUTPUT),
            *(BEFORE_FFN, BEFORE_FFN_BIAS, *GATED_FFN, FINAL),
            Row("transformer.ln_f.bias", "model.norm.bias"),
        ),
        (
            *SIZES,
            ("n_query_groups", "num_key_value_heads"),
            ("norm_eps", "layer_norm_eps"),
            ("rotary_percentage", "partial_rotary_factor"),
        ),
        {"norm_class_name": ("LayerNorm",), "rotary_percentage": (0.25, 0.5, 1.0)},
        architectures=["StableLmForCausalLM"],
        **dict.fromkeys(("qk_layernorm", "use_parallel_residual", "use_qkv_bias"), False),
        **WITHOUT_DROPOUT,
    ),
    litgpt_dialect(
        "gpt_neox",
        (
            *(HEAD, Row("transformer.wte.weight", "gpt_neox.embed_in.weight")),
            *_both("norm_1", "input_layernorm"),
            *_both("attn.qkv", "attention.query_key_value", "thirds heads: "),
            *_both("attn.proj", "attention.dense"),
            *_both("norm_2", "post_attention_layernorm"),
            *_both("mlp.fc", "mlp.dense_h_to_4h"),
            *_both("mlp.proj", "mlp.dense_4h_to_h"),
            Row("transformer.ln_f.weight", "gpt_neox.final_layer_norm.weight"),
            Row("transformer.ln_f.bias", "gpt_neox.final_layer_norm.bias"),
        ),
        (
            *SIZES,
            ("n_query_groups", "num_attention_heads"),
            ("norm_eps", "layer_norm_eps"),
            ("parallel_residual", "use_parallel_residual"),
            ("rotary_percentage", "rotary_pct"),
            ("rope_base", "rotary_emb_base"),
        ),
        {
            "norm_class_name": ("LayerNorm",),
            "mlp_class_name": ("GptNeoxMLP",),
            "gelu_approximate": ("none",),
            "bias": (True,),
            "parallel_residual": (True, False),
            "rotary_percentage": (0.25, 0.5, 1.0),
        },
        architectures=["GPTNeoXForCausalLM"],
        hidden_act="gelu",
        tie_word_embeddings=False,
        attention_bias=True,
        **WITHOUT_DROPOUT,
    ),
    litgpt_dialect(
        "phi",
        (
            HEAD,
            Row("lm_head.bias", "lm_head.bias"),
            *(EMBEDDING, BEFORE_ATTENTION, BEFORE_ATTENTION_BIAS, QKV, QKV_BIAS),
            Row(THEIR + "attn.proj.weight", OUR + "self_attn.dense.weight"),
            Row(THEIR + "attn.proj.bias", OUR + "self_attn.dense.bias"),
            Row(THEIR + "mlp.fc.weight", OUR + "mlp.fc1.weight"),
            Row(THEIR + "mlp.fc.bias", OUR + "mlp.fc1.bias"),
            Row(THEIR + "mlp.proj.weight", OUR + "mlp.fc2.weight"),
            Row(THEIR + "mlp.proj.bias", OUR + "mlp.fc2.bias"),
            Row("transformer.ln_f.weight", "model.final_layernorm.weight"),
            Row("transformer.ln_f.bias", "model.final_layernorm.bias"),
        ),
        (
            *SIZES,
            ("n_query_groups", "num_key_value_heads"),
            ("norm_eps", "layer_norm_eps"),
            ("rotary_percentage", "partial_rotary_factor"),
        ),
        {
            "norm_class_name": ("LayerNorm",),
            "mlp_class_name": ("GptNeoxMLP",),
            "gelu_approximate": ("tanh",),
            "bias": (True,),
            "lm_head_bias": (True,),
            "parallel_residual": (True,),
            "shared_attention_norm": (True,),
            "rotary_percentage": (0.4, 0.5, 1.0),
        },
        architectures=["PhiForCausalLM"],
        hidden_act="gelu_new",
        qk_layernorm=False,
        **dict.fromkeys(("attention_dropout", "embd_pdrop", "resid_pdrop"), 0.0),
    ),
)
