"""Depth growth: exact identities, bit for bit, and stacking for what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.cli import run
from ckptgrow.errors import RequestError
from tests.helpers.gpt2 import logits, perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import load_model, save_lightning, trained_checkpoint

LAYER = "model.transformer.h.{}."


def tensors_of_layer(tree: dict[str, Any], layer: int) -> dict[str, torch.Tensor]:
    prefix = LAYER.format(layer)
    return {name.removeprefix(prefix): t for name, t in tree["state_dict"].items() if name.startswith(prefix)}


def records_by_name(tree: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """Optimizer records under the names of the model's own parameters, in torch's order."""
    names = [name for name in tree["state_dict"] if name != "model.lm_head.weight"]
    return {names[number]: record for number, record in tree["optimizer_states"][0]["state"].items()}


@pytest.mark.parametrize("new", ["zero-output", "zero-norm"])
@pytest.mark.parametrize("place", ["alternate", "append"])
@pytest.mark.parametrize("factor", [2, 3])
def test_identity_layers_leave_logits_and_old_layers_bit_equal(
    tmp_path: Path, factor: int, place: Any, new: Any
) -> None:
    small = perturbed_gpt2()
    source = trained_checkpoint(tmp_path / "small.ckpt", small)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", factor=factor, place=place, new=new)
    grown, tree = load_model(tmp_path / "grown.ckpt")
    assert grown.config.n_layer == 2 * factor
    for tokens in token_batches(3, seed=7):
        assert torch.equal(logits(small, tokens), logits(grown, tokens))

    before, after = records_by_name(torch.load(source, weights_only=True)), records_by_name(tree)
    old_layers = {0: 0, 1: factor} if place == "alternate" else {0: 0, 1: 1}
    for name, record in after.items():
        layer = int(name.split(".")[3]) if ".h." in name else None
        if layer is None or layer in old_layers.values():
            source_name = name
            if layer is not None:
                old = next(old for old, moved in old_layers.items() if moved == layer)
                source_name = name.replace(f".h.{layer}.", f".h.{old}.")
            assert all(torch.equal(record[key], before[source_name][key]) for key in record), name
            assert float(record["step"]) == 5
        else:
            assert all(not value.any() for value in record.values()), name


def test_new_layers_with_zero_output_train_at_once(tmp_path: Path) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.depth(source, tmp_path / "grown.ckpt")
    grown, tree = load_model(tmp_path / "grown.ckpt")
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3)
    optimizer.load_state_dict(tree["optimizer_states"][0])
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    before = {name: parameter.detach().clone() for name, parameter in grown.named_parameters()}
    train(grown, optimizer, token_batches(1))
    moved = grown.transformer.h[1].mlp.c_proj.weight.detach() - before["transformer.h.1.mlp.c_proj.weight"]
    assert float(moved.abs().max()) == pytest.approx(1e-3, rel=1e-3)  # Adam's first step is one lr, not 3.2


@pytest.mark.parametrize("place", ["alternate", "append"])
def test_copies_carry_weights_moments_and_steps(tmp_path: Path, place: Any) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.depth(source, tmp_path / "grown.ckpt", place=place, new="copy")
    old, new = (torch.load(path, weights_only=True) for path in (source, tmp_path / "grown.ckpt"))
    sources = [0, 0, 1, 1] if place == "alternate" else [0, 1, 0, 1]
    for layer, origin in enumerate(sources):
        expected = tensors_of_layer(old, origin)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of_layer(new, layer).items())
    before, after = records_by_name(old), records_by_name(new)
    last = "model.transformer.h.3.mlp.c_fc.weight"
    assert all(torch.equal(after[last][key], before[last.replace(".3.", ".1.")][key]) for key in after[last])


def test_an_explicit_list_of_layers_works(tmp_path: Path) -> None:
    small = perturbed_gpt2(n_layer=3)
    source = trained_checkpoint(tmp_path / "small.ckpt", small)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", layers=[0, 1, 1, 1, 2])
    grown, _ = load_model(tmp_path / "grown.ckpt")
    assert grown.config.n_layer == 5
    assert torch.equal(logits(small, token_batches(1)[0]), logits(grown, token_batches(1)[0]))
    assert not grown.transformer.h[3].mlp.c_proj.weight.any() and grown.transformer.h[4].mlp.c_proj.weight.any()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([0, 1, 1], "adds no layer|come up"),
        ([0, 2, 1, 2], "in order"),
        ([0, 1, 2, 9], "9.*0 to 2"),
        ([*range(12)], "3-11.*no such layer"),
        ([0, 0, 1], "come up"),
    ],
)
def test_lists_that_lose_or_reorder_layers_are_refused(tmp_path: Path, layers: list[int], words: str) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(n_layer=3))
    with pytest.raises(RequestError, match=words):
        ckptgrow.depth(source, tmp_path / "grown.ckpt", layers=layers)
    assert [path.name for path in tmp_path.iterdir()] == ["small.ckpt"]


def test_attention_scaled_by_the_layers_index_cannot_grow_in_depth(tmp_path: Path) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(RequestError, match="layer's index"):
        ckptgrow.depth(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("new", ["copy", "zero-output"])
@pytest.mark.parametrize("allow_nonfinite", [False, True])
def test_a_layer_made_from_another_shares_no_memory_with_it(tmp_path: Path, new: Any, allow_nonfinite: bool) -> None:
    """What is one object is stored once: a directory would lack it, and loaded moments would be changed twice."""
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, token_batches(2))
    request = StateRequest(allow_nonfinite=allow_nonfinite)
    file = save_lightning(tmp_path / "small.ckpt", model, [optimizer])
    ckptgrow.depth(file, tmp_path / "grown.ckpt", new=new, request=request)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tensors = [one for name, one in tree["state_dict"].items() if not name.endswith("lm_head.weight")]
    tensors += [one for record in tree["optimizer_states"][0]["state"].values() for one in record.values()]
    assert len({one.data_ptr() for one in tensors}) == len(tensors)
    model.save_pretrained(tmp_path / "small")
    ckptgrow.depth(tmp_path / "small", tmp_path / "grown", new=new, request=request)
    stored = load_file(tmp_path / "grown" / "model.safetensors")
    assert len(stored) == len([name for name in tree["state_dict"] if not name.endswith("lm_head.weight")])


PLACED: dict[str, tuple[list[str], list[int]]] = {
    "middle": (["--place", "middle"], [0, 1, 1, 1, 1, 2]),
    "middle, thrice": (["--place", "middle", "--factor", "3"], [0, 1, 1, 1, 1, 1, 1, 1, 2]),
    "every second": (["--every", "2"], [0, 1, 1, 2]),
    "every": (["--every", "1"], [0, 0, 1, 1, 2, 2]),
    "ranges": (["--layers", "0-1, 1-2"], [0, 1, 1, 2]),
    "ranges and layers": (["--layers", "0-2,0,1-1"], [0, 1, 2, 0, 1]),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("place", PLACED)
@pytest.mark.parametrize("new", ["zero-output", "zero-norm", "copy"])
def test_layers_come_where_they_are_asked_for(tmp_path: Path, place: str, new: str) -> None:
    words, sources = PLACED[place]
    small = perturbed_gpt2(n_layer=3)
    source = trained_checkpoint(tmp_path / "small.ckpt", small)
    assert run(["depth", str(source), str(tmp_path / "grown.ckpt"), *words, "--new", new]) == 0
    grown, tree = load_model(tmp_path / "grown.ckpt")
    old = torch.load(source, weights_only=True)
    assert [source for source, _ in tree["ckptgrow"]["history"][-1]["layers"]] == sources
    for index, layer in enumerate(sources):
        read = "attn.c_attn.weight"  # no kind of new layer zeroes it
        assert torch.equal(tensors_of_layer(tree, index)[read], tensors_of_layer(old, layer)[read])
    if new != "copy":
        assert torch.equal(logits(small, token_batches(1)[0]), logits(grown, token_batches(1)[0]))
        assert run(["verify", str(source), str(tmp_path / "grown.ckpt")]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--every", "0"],
        ["--every", "4"],
        ["--every", "2", "--factor", "2"],
        ["--every", "2", "--layers", "0,1,1"],
        ["--every", "2", "--place", "middle"],
        ["--layers", "2-0"],
        ["--layers", "0-1-2"],
        ["--layers", "0-99999999999"],
        ["--place", "centre"],
    ],
    ids=" ".join,
)
def test_places_that_cannot_be_are_one_line_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    source = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(n_layer=3))
    assert run(["depth", str(source), str(tmp_path / "grown.ckpt"), *words]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and words[0] in error
    assert list(tmp_path.iterdir()) == [source]
