"""Tiny random models of every family; which options a family has is this table's, drawn in `drawn`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.helpers.families import HEADS, InFloat64, images

VOCABULARY, LENGTH = 37, 16  # windows are shorter
FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "gpt2",
    "opt",
    "olmo",
    "olmo2",
    "phi",
    "phi3",
    "starcoder2",
    "granite",
    "stablelm",
    "mixtral",
    "qwen3_moe",
    "bert",
    "roberta",
    "vit",
    "t5",
    "bloom",
    "mpt",
    "smollm3",
)
GEMMA = ("gemma", "gemma2", "gemma3_text")
GATED = ("llama", "mistral", "qwen2", "qwen3", "granite", "olmo", "stablelm", "smollm3")
RMS_NORM = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    *GEMMA,
    "olmo2",
    "phi3",
    "granite",
    "mixtral",
    "qwen3_moe",
    "t5",
    "smollm3",
)
EXPERTS = ("mixtral", "qwen3_moe")
OWN_HEAD_DIM = ("llama", "mistral", "qwen3", *GEMMA, "granite", "mixtral", "qwen3_moe")
PARTIAL_ROTARY = ("gpt_neox", "phi", "stablelm")
# what else a config of a family may say: each field is left out half of the time
CHOICES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "llama": {"attention_bias": (True,), "mlp_bias": (True,), "hidden_act": ("gelu",)},
    "mistral": {"sliding_window": (5, None)},
    "qwen2": {"max_window_layers": (1, 2)},
    "qwen3": {"max_window_layers": (1, 2), "attention_bias": (True,)},
    "gemma": {"attention_bias": (True,)},
    "gemma2": {"query_pre_attn_scalar": (4, 6), "attention_bias": (True,)},
    "gemma3_text": {"query_pre_attn_scalar": (4, 6), "sliding_window_pattern": (2, 3)},
    "gpt_neox": {"use_parallel_residual": (False,), "attention_bias": (False,)},
    "gpt2": {"scale_attn_by_inverse_layer_idx": (True,), "activation_function": ("relu",)},
    "opt": {
        "word_embed_proj_dim": (8,),
        "layer_norm_elementwise_affine": (False,),
        "enable_bias": (False,),
        "do_layer_norm_before": (False,),
    },
    "olmo": {"clip_qkv": (0.7,)},
    "olmo2": {"attention_bias": (True,)},
    "phi": {"qk_layernorm": (True,)},
    "phi3": {"sliding_window": (5,)},
    "starcoder2": {"sliding_window": (5,), "use_bias": (False,)},
    "granite": {
        "embedding_multiplier": (3.0,),
        "logits_scaling": (2.0,),
        "residual_multiplier": (0.5,),
        "attention_multiplier": (0.3,),
        "mlp_bias": (True,),
    },
    "stablelm": {"use_qkv_bias": (True,), "use_parallel_residual": (True,)},
    "mixtral": {"sliding_window": (5,)},
    "qwen3_moe": {"norm_topk_prob": (True,), "decoder_sparse_step": (2,), "mlp_only_layers": ([1], [0])},
    "t5": {"feed_forward_proj": ("gated-gelu",), "num_decoder_layers": (1, 3)},
    "bloom": {"apply_residual_connection_post_layernorm": (True,)},
    "smollm3": {"no_rope_layer_interval": (2, 3), "mlp_bias": (True,), "attention_bias": (True,)},
}
DROPOUTS: Mapping[str, tuple[str, ...]] = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "gpt_neox": ("hidden_dropout", "attention_dropout"),
    "opt": ("dropout", "attention_dropout"),
    "phi": ("resid_pdrop", "embd_pdrop"),
    "phi3": ("resid_pdrop",),
    "starcoder2": ("residual_dropout", "embedding_dropout"),
    "stablelm": ("hidden_dropout",),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "vit": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "t5": ("dropout_rate",),
    "bloom": ("hidden_dropout", "attention_dropout"),
}


@dataclass(frozen=True)
class Subject:
    """A config as its file has it, and the seed of its weights."""

    model_type: str
    fields: Mapping[str, Any]
    seed: int

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding, as transformers derives it."""
        return bool(getattr(AutoConfig.for_model(self.model_type, **self.fields), "tie_word_embeddings", False))


def drawn(random: Random, families: tuple[str, ...] = FAMILIES) -> Subject:
    """A random family and config."""
    family = random.choice(families)
    heads, kv_heads = random.choice([(4, 2), (4, 4), (2, 1), (2, 2), (4, 1), (6, 2)])
    head = 4 if heads == 6 or family in PARTIAL_ROTARY else random.choice([4, 6])
    hidden, ffn, layers = heads * head, random.choice([10, 12, 20]), 2
    layers += random.random() < 0.4
    fields = sizes(family, hidden, heads, kv_heads, ffn, layers)
    if family in OWN_HEAD_DIM and random.random() < 0.6:
        fields["head_dim"] = random.choice([4, 6])
    for name, values in CHOICES.get(family, {}).items():
        if random.random() < 0.4:
            fields[name] = random.choice(values)
    if family not in ("vit", "mpt") and random.random() < 0.5:
        fields["tie_word_embeddings"] = random.random() < 0.5
    for name in DROPOUTS.get(family, ()):
        fields[name] = 0.0
    if family in DROPOUTS and random.random() < 0.2:
        fields[random.choice(DROPOUTS[family])] = 0.1
    _windows(random, family, fields, layers)
    return Subject(family, fields, random.randrange(10**6))


def _windows(random: Random, family: str, fields: dict[str, Any], layers: int) -> None:
    """Kinds of layers, by the family's rule or by a list."""
    if family in ("qwen2", "qwen3", "qwen3_moe", "smollm3") and random.random() < 0.6:
        fields |= {"use_sliding_window": True, "sliding_window": 5}
    if family in ("gemma2", "gemma3_text"):
        fields["sliding_window"] = 5
    listed = family in ("gemma2", "gemma3_text") or (family in ("qwen2", "qwen3") and "use_sliding_window" in fields)
    if listed and random.random() < 0.5:
        fields["layer_types"] = [random.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]
        fields.pop("sliding_window_pattern", None)
    if family == "smollm3" and random.random() < 0.4:
        fields["no_rope_layers"] = [random.randrange(2) for _ in range(layers)]
        fields.pop("no_rope_layer_interval", None)


def sizes(family: str, hidden: int, heads: int, kv_heads: int, ffn: int, layers: int) -> dict[str, Any]:
    """A family's fields of size, and what its config needs besides."""
    """A family's fields of size, and what its config needs besides."""
    own: Mapping[str, dict[str, Any]] = {
        "gpt2": {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_inner": ffn, "n_positions": 32},
        "mpt": {"d_model": hidden, "n_layers": layers, "n_heads": heads, "hidden_size": hidden},
        "bloom": {"hidden_size": hidden, "n_layer": layers, "n_head": heads},
        "t5": {
            "d_model": hidden,
            "d_kv": 4,
            "d_ff": ffn,
            "num_layers": layers,
            "num_heads": heads,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 10,
            "decoder_start_token_id": 0,
        },
    }
    ends: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    if family in own:
        return own[family] | (ends if family != "t5" else {**ends, "pad_token_id": 0})
    fields = {
        **ends,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "max_position_embeddings": 32,
    }
    special: Mapping[str, dict[str, Any]] = {
        "opt": {"ffn_dim": ffn, "word_embed_proj_dim": hidden},
        "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
        "qwen3_moe": {"head_dim": 4, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": ffn},
        "roberta": {"pad_token_id": 1, "max_position_embeddings": 34},
        "vit": {"image_size": 8, "patch_size": 4, "id2label": {0: "a", 1: "b", 2: "c"}},
    }
    if family in PARTIAL_ROTARY:
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    if family in ("gpt_neox", "opt", "bert", "roberta", "vit"):
        del fields["num_key_value_heads"]
    for name in ("vocab_size", "max_position_embeddings") if family == "vit" else ():
        del fields[name]
    if family == "opt":
        del fields["intermediate_size"]
    return fields | special.get(family, {})


def built(model_type: str, fields: Mapping[str, Any]) -> PreTrainedModel:
    """Transformers' model in float64, gemma's √hidden too; torch's grouped matrix product has no float64."""
    options = {key: value for key, value in fields.items() if key != "model_type"}
    config = AutoConfig.for_model(model_type, **options)
    model = HEADS.get(model_type, AutoModelForCausalLM).from_config(config)
    return widened(model)


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float64."""
    model.config._experts_implementation = "eager"
    for module in model.double().modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale.fill_(module.scalar_embed_scale)
    return model.eval()


def weighted(subject: Subject) -> PreTrainedModel:
    """The model with every parameter far from its initialisation, and none of its entries zero."""
    torch.manual_seed(subject.seed)
    model = built(subject.model_type, subject.fields)
    scale = 0.5 if subject.model_type == "t5" else 1.0  # its scores are not divided by √head, and would be sharp
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale * (0.2 if parameter.dim() > 1 else 0.4))
    return model


def batches(num: int, seed: int) -> list[torch.Tensor]:
    """Batches of two sequences, longer than any window."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(2, VOCABULARY, (num, 2, LENGTH), generator=generator))


def outputs(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits in the model's own dtype; all of float64 in a float64 model."""
    dtype = model.dtype
    with InFloat64() if dtype == torch.float64 else torch.enable_grad():
        match model.config.model_type:
            case "vit":
                return model(pixel_values=images(tokens).to(dtype)).logits[:, None].expand(-1, 2, -1)
            case "t5":
                return model(input_ids=tokens, decoder_input_ids=tokens.flip(0)).logits
            case _:
                return model(input_ids=tokens).logits


def loss_of(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the next tokens (of made up classes, for images)."""
    logits = outputs(model, tokens)
    targets = tokens[:, 1 : logits.shape[1]] % logits.shape[2]
    return cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
