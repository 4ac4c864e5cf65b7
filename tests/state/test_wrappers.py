"""Modules that are compiled, checkpointed or sharded one by one leave their wrapper's word anywhere inside names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckptgrow
from ckptgrow.state.wrappers import bare_names, with_part
from tests.helpers.families import CASES, batches, perturbed, still, trained
from tests.helpers.lightning_files import save_lightning

WORDS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module")
PLACES: dict[str, Callable[[str, str], str]] = {
    "the whole model": lambda name, word: f"{word}.{name}",
    "every layer": lambda name, word: re.sub(r"\.(\d+)\.", rf".\1.{word}.", name, count=1),
    "the list of layers": lambda name, word: re.sub(r"\.(\d+)\.", rf".{word}.\1.", name, count=1),
    "the backbone": lambda name, word: re.sub(r"^(model|transformer|bert|gpt_neox)\.", rf"\1.{word}.", name),
    "every linear module": lambda name, word: re.sub(r"\.(weight|bias)$", rf".{word}.\1", name),
}
FAMILIES = ("llama tied", "gpt2", "gpt_neox", "bert", "mixtral", "opt projected", "qwen3_moe with a dense layer")


def wrapped(path: Path, case: str, rename: Callable[[str], str], *, named: bool) -> Path:
    """A checkpoint whose names, those of the optimizer too where it has any, are renamed below `model.`."""
    model = perturbed(case)
    names = [name for name, _ in model.named_parameters()]
    optimizer = still([(rename(name), one) for name, one in model.named_parameters()] if named else model.parameters())
    trained(model, optimizer, batches(3))
    tensors = {f"model.{rename(name)}": tensor for name, tensor in model.state_dict().items()}
    assert len(names) == len({rename(name) for name in names})
    return save_lightning(path, model, [optimizer], state_dict=tensors)


def grown(source: Path, target: Path, operator: str) -> dict[str, Any]:
    if operator == "width":
        ckptgrow.width(source, target, noise=0)
    else:
        ckptgrow.depth(source, target, new="copy")
    return torch.load(target, weights_only=True)


def check_same(tmp_path: Path, case: str, rename: Callable[[str], str], operator: str, *, named: bool) -> None:
    plain = grown(wrapped(tmp_path / "plain.ckpt", case, str, named=named), tmp_path / "expected.ckpt", operator)
    found = grown(wrapped(tmp_path / "wrapped.ckpt", case, rename, named=named), tmp_path / "grown.ckpt", operator)
    expected = {f"model.{rename(name.removeprefix('model.'))}": one for name, one in plain["state_dict"].items()}
    assert list(found["state_dict"]) == list(expected)
    assert all(torch.equal(found["state_dict"][name], one) for name, one in expected.items())
    ours, theirs = (tree["optimizer_states"][0] for tree in (found, plain))
    assert [group["params"] for group in ours["param_groups"]] == [group["params"] for group in theirs["param_groups"]]
    for number, record in theirs["state"].items():
        assert all(torch.equal(ours["state"][number][key], value) for key, value in record.items())
    if named:
        names = [name for group in ours["param_groups"] for name in group["param_names"]]
        assert {bare_names(names)[name] for name in names} == {
            bare_names([name])[name] for group in theirs["param_groups"] for name in group["param_names"]
        }
        inner = [name.removeprefix("model.") for name in names]
        assert all(rename(bare_names([name])[name]) == name for name in inner)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("word", WORDS)
def test_names_with_wrappers_are_read_as_those_without_and_written_with_them(
    tmp_path: Path, place: str, word: str
) -> None:
    check_same(tmp_path, "llama tied", lambda name: PLACES[place](name, word), "width", named=False)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(FAMILIES),
    wrappings=st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(sorted(PLACES))), min_size=1, max_size=3),
    operator=st.sampled_from(["width", "depth"]),
    named=st.booleans(),
)
def test_any_wrapping_of_any_family_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, case: str, wrappings: list[tuple[str, str]], operator: str, *, named: bool
) -> None:
    def rename(name: str) -> str:
        for word, place in wrappings:
            name = PLACES[place](name, word)
        return name

    check_same(tmp_path_factory.mktemp("wrapped"), case, rename, operator, named=named)


@pytest.mark.parametrize("to", ["huggingface", "lightning"])
def test_conversion_leaves_the_wrappers_behind_only_in_a_directory(tmp_path: Path, to: Any) -> None:
    source = wrapped(tmp_path / "small.ckpt", "llama", lambda name: PLACES["every layer"](name, WORDS[0]), named=True)
    ckptgrow.convert(source, tmp_path / "new", to)
    ckptgrow.convert(tmp_path / "new", tmp_path / "again.ckpt", "lightning")
    tree = torch.load(tmp_path / "again.ckpt", weights_only=True)
    plain = {f"model.{name}" for name in perturbed("llama").state_dict()}
    before = set(torch.load(source, weights_only=True)["state_dict"])
    assert set(tree["state_dict"]) == (plain if to == "huggingface" else before)


def test_experts_wrapped_one_by_one_are_joined_and_parted_again(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    perturbed("mixtral").save_pretrained(tmp_path / "small")
    ckptgrow.width(tmp_path / "small", tmp_path / "expected", noise=0)
    file = tmp_path / "small" / "model.safetensors"
    rename = re.compile(r"(layers\.\d+|experts\.\d+)\.")
    tensors = {rename.sub(r"\1._orig_mod.", name): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("grown", "expected"))
    assert set(found) == set(tensors)
    assert all(torch.equal(found[rename.sub(r"\1._orig_mod.", name)], tensor) for name, tensor in expected.items())


def test_words_that_tell_names_apart_stay() -> None:
    twice = ["model.h.0.bias", "model.module.h.0.bias"]
    assert bare_names(twice) == {name: name for name in twice}
    assert bare_names(["model.h.bias", "average.module.h.bias"])["average.module.h.bias"] == "average.h.bias"
    assert with_part("module.h._orig_mod.0.x.module.0.w", "h.0.x.0.w", 2, "{layer}") == (
        "module.h._orig_mod.{layer}.x.module.0.w"
    )


def test_every_family_of_the_draw_has_its_case() -> None:
    assert set(FAMILIES) <= set(CASES)
