"""What a growth keeps in memory beside its chunks does not grow with the number of layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import ckptgrow
from ckptgrow.spaces.gather import TensorGrowth
from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layout import Layout
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import trained_checkpoint


def test_layers_share_their_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TensorGrowth] = []
    original = TensorGrowth.of

    def counted(layout: Layout, growths: Mapping[str, Growth]) -> TensorGrowth:
        made.append(original(layout, growths))
        return made[-1]

    monkeypatch.setattr(TensorGrowth, "of", counted)
    lengths: dict[int, int] = {}
    for num_layers in (1, 4):
        made.clear()
        source = trained_checkpoint(tmp_path / f"{num_layers}.ckpt", perturbed_gpt2(n_layer=num_layers), num_steps=1)
        ckptgrow.width(source, tmp_path / f"{num_layers}-grown.ckpt", factor=2)
        lengths[num_layers] = sum(axis.growth.num_new for one in made for axis in one.axes)
    assert 0 < lengths[4] == lengths[1]
