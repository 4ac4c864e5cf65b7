"""Files that other trainers' own code wrote, with what it computed from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ckptgrow.state.model import load_model
from ckptgrow.state.opening import open_state
from tests.helpers.paths import ROOT

TRAINERS = ROOT / "fixtures" / "trainers"
SAMPLES = {
    "nanogpt": TRAINERS / "nanogpt" / "ckpt.pt",
    "nanogpt-bias": TRAINERS / "nanogpt" / "ckpt_bias.pt",
    "torchtitan": TRAINERS / "torchtitan" / "step-5",
    "torchtitan-qwen3": TRAINERS / "torchtitan_qwen3" / "step-5",
    **{f"litgpt-{path.name}": path for path in sorted((TRAINERS / "litgpt").iterdir()) if path.is_dir()},
    **{f"torchtune-{path.name}": path for path in sorted((TRAINERS / "torchtune").iterdir()) if path.is_dir()},
    **{f"olmo-core-{path.name}": path for path in sorted((TRAINERS / "olmo_core").iterdir()) if path.is_dir()},
}
OLMO_CORE = tuple(name for name in SAMPLES if name.startswith("olmo-core-"))
TORCHTUNE = tuple(name for name in SAMPLES if name.startswith("torchtune-"))
TORCHTITAN = ("torchtitan", "torchtitan-qwen3")
TRAINED = (
    "nanogpt",
    "nanogpt-bias",
    "litgpt-llama",
    "litgpt-tied",
    "litgpt-mixtral",
    *TORCHTITAN,
    *TORCHTUNE,
    *OLMO_CORE,
)  # others: no optimizer
DISTRIBUTED = (*TORCHTITAN, *OLMO_CORE)


def config_beside(path: Path) -> Path | None:
    """Transformers' config, where the trainer leaves none on the disk and the user passes it."""
    config = path.parent / "config.json"
    return config if config.is_file() else None


def trainers_logits(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens, and what the trainer's own model computed."""
    stored = torch.load(path.parent / "logits.pt", weights_only=True)
    return stored["tokens"], stored[path.name]


def transformers_logits(path: Path, tokens: torch.Tensor, dialect: str | None = None) -> torch.Tensor:
    """What transformers' model behind the dialect computes."""
    state = open_state(path, config=config_beside(path), dialect=dialect)
    model = load_model(state.checkpoint, state.claim, state.config, torch.float32, "cpu").eval()
    with torch.no_grad():
        return model(tokens).logits


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def saved_with_its_optimizer(model: PreTrainedModel, optimizer: Mapping[str, Any], directory: Path) -> Path:
    """A directory of the Trainer's after 3 steps."""
    model.save_pretrained(directory)
    torch.save(optimizer, directory / "optimizer.pt")
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": 3, "epoch": 0.5}))
    return directory


def trained_llama(directory: Path, dtype: torch.dtype) -> Path:
    """A directory of the Trainer's, whose groups are of matrices and of vectors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 16}
    config = LlamaConfig(**sizes, rms_norm_eps=1e-5)  # type: ignore[arg-type]
    model = LlamaForCausalLM(config).to(dtype)
    groups = [
        {"params": [one for one in model.parameters() if (one.ndim > 1) == is_matrix], "weight_decay": decay}
        for is_matrix, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(3):
        model(torch.arange(16)[None], labels=torch.arange(16)[None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return saved_with_its_optimizer(model, optimizer.state_dict(), directory)
