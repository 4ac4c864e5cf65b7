"""Every model that litgpt lists, made small: which dialect has it, and that transformers computes what litgpt does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ckptgrow.errors import CheckpointError
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.state.model import load_model
from ckptgrow.state.opening import open_state
from ckptgrow.state.translation import in_transformers_terms

REFUSED = {"LLaMA-2-7B-32K": "rope_condense_ratio 8"}
FLOAT32 = 4e-6  # of the largest logit: two implementations round differently


def small(said: dict[str, Any]) -> dict[str, Any]:
    """The same switches with tiny sizes."""
    from litgpt.config import Config

    full = Config(**said)
    groups = {full.n_head: 4, 1: 1}.get(full.n_query_groups, 2)
    made = {**said, "n_layer": 2, "n_head": 4, "n_embd": 160, "n_query_groups": groups, "intermediate_size": 24}
    made |= {"vocab_size": 32, "padded_vocab_size": 32, "block_size": 16, "head_size": 40}
    experts = {"n_expert": 4, "n_expert_per_token": 2} if said.get("n_expert") else {}
    sizes = {name: size for name, size in (("moe_intermediate_size", 12), ("sliding_window_size", 3)) if said.get(name)}
    lists = {name: said[name][:2] for name in ("sliding_window_indices", "rope_indices") if said.get(name)}
    return {**made, **experts, **sizes, **lists}


@pytest.mark.slow
def test_transformers_computes_what_each_model_of_litgpts_list_does(tmp_path: Path) -> None:
    pytest.importorskip("litgpt")
    from litgpt.config import configs

    words = ("Gemma", "OLMo", "Phi-")
    distinct = {  # many differ in their sizes alone
        str({**small(one), "name": [word in one["name"] for word in words], "hf_config": None}): one for one in configs
    }
    kinds: set[str] = set()
    for said in distinct.values():
        name, folder = said["name"], tmp_path / said["name"]
        tokens, expected = written(folder, small(said))
        if name in REFUSED:
            with pytest.raises(CheckpointError, match=REFUSED[name]):
                in_transformers_terms(read_checkpoint(folder), None, "litgpt-llama")
            continue
        state = open_state(folder)
        model = load_model(state.checkpoint, state.claim, state.config, torch.float32, "cpu").eval()
        with torch.no_grad():
            found = model(tokens).logits
        assert float((found - expected).abs().max()) < FLOAT32 * float(expected.abs().max()), name
        kinds.add(state.claim.family.model_type)
    assert len(distinct) > 50 and len(kinds) == 16


def written(folder: Path, fields: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """A model of litgpt's with random weights on the disk; some tokens, and its logits."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import save_config

    torch.manual_seed(0)
    config = Config(**fields)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.1)
    folder.mkdir()
    torch.save({"model": model.state_dict(), "step_count": 5}, folder / "lit_model.pth")
    save_config(config, folder)
    tokens = torch.arange(16)[None] * 7 % 32
    with torch.no_grad():
        return tokens, model(tokens)
