"""New layers that change the function on purpose: drawn ones, and copies that share what they write."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import RequestError
from tests.helpers.families import (
    adamw,
    batches,
    difference,
    loaded,
    outputs,
    perturbed,
    saved,
    still,
    still_run,
    trained,
)

Tree = dict[str, Any]
WRITERS = ("o_proj", "down_proj", "c_proj", "post_attention_layernorm", "post_feedforward_layernorm")


def writes(name: str, case: str) -> bool:
    """Whether a parameter of a layer writes the residual stream; behind the norms of Gemma 2 their gains do."""
    return any(part in name for part in (WRITERS[3:] if case == "gemma2" else WRITERS[:3]))


def number_of(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def renumbered(name: str, layer: int) -> str:
    return ".".join(str(layer) if part.isdigit() else part for part in name.split("."))


def records(tree: Tree, model: Any) -> dict[str, Any]:
    names = [name for name, _ in model.named_parameters()]
    return {names[index]: record for index, record in tree["optimizer_states"][0]["state"].items()}


@pytest.mark.parametrize(
    ("case", "asked", "sources"),
    [
        ("llama", {}, [0, 0, 1, 1]),
        ("gpt2", {"place": "append"}, [0, 1, 0, 1]),
        ("gemma2", {"factor": 3}, [0, 0, 0, 1, 1, 1]),
        ("mixtral", {"layers": [0, 1, 1, 1, 1]}, [0, 1, 1, 1, 1]),
    ],
)
def test_ode_divides_what_is_written_among_all_copies_and_the_rest_of_the_gradients(
    tmp_path: Path, case: str, asked: dict[str, Any], sources: list[int]
) -> None:
    small, source = perturbed(case), still_run(tmp_path / "small.ckpt", case)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="ode", **asked)
    grown, tree = loaded(tmp_path / "grown.ckpt")
    old, new = records(loaded(source)[1], small), records(tree, grown)
    offset = 1.0 if case == "gemma2" else 0.0
    for name, parameter in grown.named_parameters():
        layer = number_of(name)
        from_ = name if layer is None else renumbered(name, sources[layer])
        share = 1.0 if layer is None else 1 / sources.count(sources[layer])
        is_writer = writes(name, case)
        before = small.get_parameter(from_).detach() + (offset if is_writer else 0.0)
        expected = before * (share if is_writer else 1.0) - (offset if is_writer else 0.0)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-15, atol=1e-15)
        assert float(new[name]["step"]) == 5
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            factor = 1.0 if is_writer or layer is None else share**power
            torch.testing.assert_close(new[name][key], old[from_][key] * factor, rtol=1e-15, atol=0)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1))
    assert report.structure.passed and report.moments is not None and report.moments.passed, report.sentences
    assert not report.passed and any("--new ode" in one for one in report.sentences)


def test_gradients_of_ode_are_as_its_moments_where_layers_do_little(tmp_path: Path) -> None:
    """With blocks that add a millionth the stream stays as it was, so each copy's gradient is what was derived."""
    small = perturbed("llama")
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if writes(name, "llama"):
                parameter.mul_(1e-6)
    source = saved(tmp_path / "small.ckpt", small, still)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", factor=3, new="ode")
    grown, tree = loaded(tmp_path / "grown.ckpt")
    real = still(grown.parameters())
    trained(grown, real, batches(5))
    for name, record in records(tree, grown).items():
        for key in ("exp_avg", "exp_avg_sq"):
            found = real.state[grown.get_parameter(name)][key]
            assert float((record[key] - found).abs().max()) <= 1e-3 * float(found.abs().max()), (name, key)


@pytest.mark.parametrize("place", ["alternate", "append"])
def test_where_layers_do_little_ode_moves_the_function_by_their_square(tmp_path: Path, place: Any) -> None:
    """Of blocks of size ε, r steps of 1/r sum to one step up to ε²; plain copies add another ε."""
    found: dict[str, float] = {}
    for size in (1e-2, 1e-3):
        small = perturbed("llama")
        with torch.no_grad():
            for name, parameter in small.named_parameters():
                if writes(name, "llama"):
                    parameter.mul_(size)
        source = saved(tmp_path / f"small-{size}.ckpt", small, still)
        for new in ("copy", "ode"):
            target = tmp_path / f"{new}-{size}.ckpt"
            ckptgrow.depth(source, target, place=place, new=new)
            found[f"{new} {size}"] = difference(small, loaded(target)[0])[0]
    assert 8 < found["copy 0.01"] / found["copy 0.001"] < 12, found
    assert 80 < found["ode 0.01"] / found["ode 0.001"] < 120, found


def test_under_mup_the_writers_of_ode_have_their_part_of_the_rate_and_the_rest_its_part_of_eps(tmp_path: Path) -> None:
    source = saved(tmp_path / "small.ckpt", perturbed("llama"), adamw)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="ode", request=StateRequest(lr_rule="mup"))
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    for group in tree["optimizer_states"][0]["param_groups"]:
        for name in group["param_names"]:
            is_writer, is_in_layer = writes(name, "llama"), number_of(name) is not None
            assert group["lr"] == pytest.approx(2e-3 * (0.5 if is_writer else 1.0), rel=1e-12), name
            assert group["eps"] == pytest.approx(1e-6 * (0.5 if is_in_layer and not is_writer else 1.0), rel=1e-12)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1))
    assert report.structure.passed and report.structure.lr_rule == "mup", report.sentences


@pytest.mark.parametrize("case", ["llama biased", "bert", "mixtral"])
def test_random_layers_are_drawn_as_large_as_old_ones_and_have_no_moments(tmp_path: Path, case: str) -> None:
    small, source = perturbed(case), still_run(tmp_path / "small.ckpt", case)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="random", layers=[0, 0, 0, 1])
    grown, tree = loaded(tmp_path / "grown.ckpt")
    new = records(tree, grown)
    for name, parameter in grown.named_parameters():
        layer = number_of(name)
        if layer is None:
            continue
        before = small.get_parameter(renumbered(name, 1 if layer == 3 else 0)).detach()
        if layer in (0, 3):
            assert torch.equal(parameter, before) and float(new[name]["step"]) == 5
            continue
        assert float(new[name]["step"]) == 0 and not new[name]["exp_avg"].any() and not new[name]["exp_avg_sq"].any()
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.dim() == 1:
            assert torch.equal(parameter, before)
        else:
            ratio = float(parameter.detach().square().mean() / before.square().mean())
            assert abs(ratio - 1) < 5 / parameter.numel() ** 0.5
            other = grown.get_parameter(renumbered(name, 3 - layer))
            assert float((parameter - other).detach().norm() / other.detach().norm()) > 1
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1))
    assert report.structure.passed and report.moments is not None and report.moments.passed, report.sentences
    assert not report.passed and any("--new random" in one for one in report.sentences)


def test_a_seed_decides_what_is_drawn(tmp_path: Path) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama")
    found = []
    for index, seed in enumerate((0, 0, 1)):
        ckptgrow.depth(source, tmp_path / f"{index}.ckpt", new="random", seed=seed)
        tree = torch.load(tmp_path / f"{index}.ckpt", weights_only=True)
        found.append(tree["state_dict"]["model.model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def a_share(tree: Tree) -> str:
    tree["state_dict"]["model.model.layers.1.mlp.down_proj.weight"].mul_(2)
    return "down_proj.weight has a factor that no one scale for every space explains"


def an_entry(tree: Tree) -> str:
    tree["state_dict"]["model.model.layers.1.self_attn.o_proj.weight"][2, 3] += 1e-6
    return "layers.1.self_attn.o_proj.weight: the weight differs"


def a_moment(tree: Tree) -> str:
    names = [name for name in tree["state_dict"] if not name.endswith("bias")]
    number = names.index("model.model.layers.1.mlp.up_proj.weight")
    tree["optimizer_states"][0]["state"][number]["exp_avg"].mul_(2)
    return "exp_avg of model.model.layers.1.mlp.up_proj.weight"


def a_kind(tree: Tree) -> str:
    record = tree["ckptgrow"]["history"][-1]
    record["new"] = "copy"
    record["layers"] = [[source, "copy" if kind == "ode" else kind] for source, kind in record["layers"]]
    return "has a factor that no one scale for every space explains"


@pytest.mark.parametrize("tamper", [a_share, an_entry, a_moment, a_kind], ids=lambda one: one.__name__)
def test_a_mistake_in_ode_is_named_beside_the_change_of_the_function(
    tmp_path: Path, tamper: Callable[[Tree], str]
) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="ode")
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    right = copy.deepcopy(tree)
    named = tamper(tree)
    for name, content in (("right", right), ("wrong", tree)):
        torch.save(content, tmp_path / f"{name}.ckpt")
    told = [
        ckptgrow.verify(source, tmp_path / f"{name}.ckpt", settings=Settings(batches=1)).sentences
        for name in ("right", "wrong")
    ]
    assert [any(named in one for one in sentences) for sentences in told] == [False, True], told


def drawn_too_large(tree: Tree) -> str:
    tree["state_dict"]["model.model.layers.1.mlp.up_proj.weight"].mul_(3)
    return "layers.1.mlp.up_proj.weight: the weight differs"


def a_bias(tree: Tree) -> str:
    tree["state_dict"]["model.model.layers.1.mlp.up_proj.bias"][3] = 0.1
    return "layers.1.mlp.up_proj.bias: the weight differs"


@pytest.mark.parametrize("tamper", [drawn_too_large, a_bias], ids=lambda one: one.__name__)
def test_a_mistake_in_random_layers_is_named(tmp_path: Path, tamper: Callable[[Tree], str]) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama biased")
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="random")
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    named = tamper(tree)
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(source, tmp_path / "tampered.ckpt", settings=Settings(batches=1))
    assert any(named in one for one in report.sentences), report.sentences


def test_ode_is_refused_where_blocks_are_normalised_after(tmp_path: Path) -> None:
    source = still_run(tmp_path / "small.ckpt", "bert")
    with pytest.raises(RequestError, match="no layer of kind ode has a share in a sum"):
        ckptgrow.depth(source, tmp_path / "grown.ckpt", new="ode")


def test_a_layer_mentioned_once_stays_as_it_is_beside_ones_that_are_divided(tmp_path: Path) -> None:
    small, source = perturbed("llama"), still_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new="ode", layers=[0, 1, 1])
    grown, _ = loaded(tmp_path / "grown.ckpt")
    with torch.no_grad():
        inner = [one(input_ids=batches(1)[0], output_hidden_states=True).hidden_states[1] for one in (small, grown)]
    assert torch.equal(*inner) and difference(small, grown)[0] > 1e-6
    assert outputs(grown, batches(1)[0]).isfinite().all()
