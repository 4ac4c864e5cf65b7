"""Tiny real models of every family, every parameter far from its initialisation, and what tests do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.builders import save_lightning

VOCABULARY, LENGTH = 40, 12
Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
GROUPED = {"num_key_value_heads": 2}

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": (
        "gpt2",
        {
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 20,
            "n_positions": 16,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "llama": ("llama", {**GROUPED}),
    "llama tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama long heads": ("llama", {**GROUPED, "head_dim": 6}),
    "mistral": ("mistral", {**GROUPED, "head_dim": None, "sliding_window": 5}),
    "qwen2": ("qwen2", {**GROUPED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 4}),
}


class InFloat64(TorchFunctionMode):
    """Float64 wherever a model's own code casts to float32, so that exactness shows to 1e-12."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = [torch.float64 if one is torch.float32 else one for one in args]
        kwargs = {name: torch.float64 if one is torch.float32 else one for name, one in (kwargs or {}).items()}
        return func(*args, **kwargs)


def perturbed(case: str, seed: int = 0) -> PreTrainedModel:
    """In float64 and evaluation mode."""
    model_type, fields = CASES[case]
    common = {} if model_type == "gpt2" else {"attention_dropout": 0.0, **COMMON}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{"vocab_size": VOCABULARY, **common, **fields})
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.4))
    return model


def batches(num: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(1, VOCABULARY, (num, 2, LENGTH), generator=generator))


def outputs(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens).logits


def trained(model: PreTrainedModel, optimizer: torch.optim.Optimizer, samples: Sequence[torch.Tensor]) -> list[float]:
    """The losses before each step."""
    losses: list[float] = []
    for tokens in samples:
        optimizer.zero_grad(set_to_none=True)
        with InFloat64():
            logits = outputs(model, tokens)
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def adamw(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.1, eps=1e-6)


def still(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """It gathers moments and moves nothing."""
    return torch.optim.AdamW(parameters, lr=0.0)


def saved(path: Path, model: PreTrainedModel, build: Optimizer) -> Path:
    """A checkpoint after five steps."""
    optimizer = build(model.parameters())
    trained(model, optimizer, batches(5))
    return save_lightning(path, model, [optimizer])


def loaded(path: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a checkpoint through transformers and torch alone, and the whole file."""
    tree = torch.load(path, weights_only=True)
    config = AutoConfig.for_model(**tree["hyper_parameters"]["config"])
    model = AutoModelForCausalLM.from_config(config).double().eval()
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tree["state_dict"].items()})
    return model, tree


def resumed(model: PreTrainedModel, tree: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer with the groups of a checkpoint, loaded the way any script would."""
    state = tree["optimizer_states"][0]
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [parameters[name.removeprefix("model.")] for name in group["param_names"]]}
        for group in state["param_groups"]
        if "param_names" in group
    ]
    optimizer = adamw(groups or model.parameters())
    optimizer.load_state_dict(state)
    return optimizer


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
