"""Around the model: averages of its weights, and heads of other tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import BertModel, GPT2DoubleHeadsModel

import ckptgrow
from ckptgrow.errors import ClaimError
from ckptgrow.growth.request import StateRequest
from tests.helpers.families import perturbed, saved, still


def test_torchs_average_of_the_weights_grows_by_the_same_noise_and_keeps_its_count(tmp_path: Path) -> None:
    """The average of grown weights is the grown average: here of two models that are the same."""
    small = perturbed("gpt2")
    average = AveragedModel(small, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(small)
    source = saved(tmp_path / "small.ckpt", small, still)
    tree = torch.load(source, weights_only=True)
    tree["state_dict"] |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    torch.save(tree, source)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=1.0)
    grown = torch.load(tmp_path / "grown.ckpt", weights_only=True)["state_dict"]
    assert int(grown["average.n_averaged"]) == 1
    again = AveragedModel(loaded_from(grown, "model."))
    again.load_state_dict({k.removeprefix("average."): v for k, v in grown.items() if k.startswith("average.")})
    for name, parameter in again.module.named_parameters():
        assert torch.equal(parameter, grown[f"model.{name}"])
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


def loaded_from(tensors: dict[str, torch.Tensor], prefix: str) -> torch.nn.Module:
    """A module with parameters of these names and shapes."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            *path, last = name.removeprefix(prefix).split(".")
            module = root
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, torch.nn.Parameter(tensor))
    return root


@pytest.mark.parametrize(
    ("wrapper", "heads"),
    [
        (GPT2DoubleHeadsModel, "multiple_choice_head.summary.weight"),
        (BertModel, "pooler.dense.bias"),
    ],
)
def test_heads_of_no_table_are_refused_by_name_and_may_be_dropped(tmp_path: Path, wrapper: Any, heads: str) -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40, "pad_token_id": 0}
    extra = {"bos_token_id": 0, "eos_token_id": 0}
    wrapper(wrapper.config_class(**size, **extra)).save_pretrained(tmp_path / "small")
    with pytest.raises(ClaimError, match=heads) as raised:
        ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    assert "drop" in str(raised.value) and not (tmp_path / "grown").exists()
    named = re.findall(r"[\w.]+\.(?:weight|bias)", str(raised.value))
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", request=StateRequest(drop=tuple(named)))
    _, report = wrapper.from_pretrained(tmp_path / "grown", output_loading_info=True)
    assert set(report["missing_keys"]) == set(named) and not report["unexpected_keys"]
