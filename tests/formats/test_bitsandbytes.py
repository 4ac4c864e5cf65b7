"""bitsandbytes' 32-bit averages of Adam and its kin: the same numbers as torch's, under other words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.errors import OptimizerError
from ckptgrow.formats.known_formats import read_checkpoint, write_checkpoint
from ckptgrow.progress import silent
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import assert_same, state_of, trained_checkpoint

WORDS = {"exp_avg": "state1", "exp_avg_sq": "state2"}
OPTIONS = {"alpha": 0.0, "t_alpha": None, "t_beta3": None}  # of every group of bitsandbytes' with two averages


def as_bitsandbytes(optimizer: dict[str, Any]) -> dict[str, Any]:
    """A state of torch's AdamW as bitsandbytes 0.50 writes it for tensors that it keeps in 32 bits."""
    records = {
        key: {
            "step": int(record["step"]),
            "__bnb_optimizer_quant_state__": {own: record[word] for word, own in WORDS.items()},
        }
        for key, record in optimizer["state"].items()
    }
    kept = ("lr", "betas", "eps", "weight_decay", "params")
    groups = [{**{key: group[key] for key in kept}, **OPTIONS} for group in optimizer["param_groups"]]
    return {"state": records, "param_groups": groups}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint with torch's AdamW, and the same one with bitsandbytes'."""
    source = trained_checkpoint(tmp_path / "torch.ckpt", perturbed_gpt2())
    tree = torch.load(source, weights_only=True)
    tree["optimizer_states"] = [as_bitsandbytes(one) for one in tree["optimizer_states"]]
    torch.save(tree, tmp_path / "bnb.ckpt")
    return source, tmp_path / "bnb.ckpt"


@pytest.mark.parametrize("operator", ["width", "depth"])
def test_averages_grow_as_torchs_do(pair: tuple[Path, Path], operator: str) -> None:
    grown = [path.with_name(f"grown-{path.name}") for path in pair]
    for source, target in zip(pair, grown, strict=True):
        getattr(ckptgrow, operator)(source, target, factor=2)
    of_torch, of_bitsandbytes = (state_of(path)["optimizers"][0] for path in grown)
    assert_same(as_bitsandbytes(of_torch)["state"], of_bitsandbytes["state"])
    assert ckptgrow.verify(pair[1], grown[1]).passed


def test_what_is_read_is_written_again(pair: tuple[Path, Path], tmp_path: Path) -> None:
    write_checkpoint(read_checkpoint(pair[1]), tmp_path / "again.ckpt", silent, force=False)
    assert_same(state_of(pair[1])["optimizers"], state_of(tmp_path / "again.ckpt")["optimizers"])


def test_one_record_in_8_bits_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    tree = torch.load(pair[1], weights_only=True)
    inner = tree["optimizer_states"][0]["state"][3]["__bnb_optimizer_quant_state__"]
    inner |= {"state1": inner["state1"].to(torch.uint8), "qmap1": torch.zeros(256), "absmax1": torch.zeros(1)}
    torch.save(tree, tmp_path / "mixed.ckpt")
    with pytest.raises(OptimizerError, match="8-bit states"):
        ckptgrow.width(tmp_path / "mixed.ckpt", tmp_path / "out.ckpt")
    assert not (tmp_path / "out.ckpt").exists()
