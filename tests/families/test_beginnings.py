"""Every family × every recipe for what copies nothing: exact, alive, and known to verify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings
from ckptgrow.choices import Fresh, words_of
from ckptgrow.errors import RequestError
from tests.helpers.families import (
    CASES,
    UNFED,
    WIDER,
    batches,
    difference,
    loaded,
    perturbed,
    saved,
    still,
    still_run,
    trained,
)
from tests.helpers.family_checks import EXACT, FLOAT32, slow_but
from tests.helpers.lightning_files import save_lightning

Tree = dict[str, Any]
SQUARED = ("nemotron", "nemotron tied", "jais2", "jais2 tied", "persimmon", "persimmon tied")
RELU = (
    "opt",
    "opt projected",
    "t5",
    "arcee",
    "nanochat",
    "nemotron",
    "nemotron tied",
    "jais2",
    "jais2 tied",
    "persimmon",
    "persimmon tied",
    "nemotron_h",
    "nemotron_h with latent experts",
)
NEVER_SILENT = ("gpt_oss", "apertus")  # its gate multiplies 1 + up; xIELU is not zero at zero
SILENCED = [case for case in WIDER if case not in (*RELU, *NEVER_SILENT)]
HEADED: dict[str, dict[str, int]] = {
    "llama": {"heads": 8},
    "llama biased": {"heads": 8},
    "phi3": {"heads": 8},
    "olmo": {"heads": 8},
    "t5": {"heads": 7},
    "qwen3": {"heads": 6, "kv_heads": 3},
    "mistral": {"heads": 6},
    "gemma2": {"heads": 8},
    "mixtral": {"heads": 8},
    "starcoder2": {"heads": 8},
    "granite": {"heads": 8},
}
HIDDEN = (
    "llama tied",
    "qwen3",
    "gemma3",
    "exaone4",
    "phi",
    "gpt2",
    "gpt_neox",
    "gemma2",
    "mixtral",
    "starcoder2",
    "stablelm",
    "vit",
    "t5 gated",
    "phi3",
)
FRESH: tuple[Fresh, ...] = words_of(Fresh)
SILENT = ("zero-copy", "zero-random")


def check(tmp_path: Path, case: str, fresh: Fresh, **sizes: int) -> tuple[Any, Any]:
    """The function of a growth, and what verify says of it; both models."""
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    ckptgrow.width(source, tmp_path / "grown.ckpt", how="pad", fresh=fresh, **sizes)
    grown, _ = loaded(tmp_path / "grown.ckpt")
    exact, as_it_is = difference(small, grown)
    assert exact <= EXACT and as_it_is <= FLOAT32, (exact, as_it_is)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1))
    assert report.passed, report.sentences
    return small, grown


def check_alive(small: Any, grown: Any, share: float = 1.0) -> None:
    """After a few steps every new row and column (or a share of them) has moved, and no two are alike."""
    before = {name: parameter.detach().clone() for name, parameter in grown.named_parameters()}
    trained(grown, torch.optim.SGD(grown.parameters(), lr=0.1), batches(4))
    old = dict(small.named_parameters())
    num_matrices = 0
    for name, parameter in grown.named_parameters():
        moved, shape = parameter.detach() != before[name], old[name].shape
        if parameter.dim() < 2 or shape == parameter.shape:
            continue
        num_matrices += 1
        for axis in range(parameter.dim()):
            new = parameter.detach().movedim(axis, 0)[shape[axis] :]
            touched = moved.movedim(axis, 0)[shape[axis] :].flatten(1)
            assert float(touched.any(1).double().sum()) >= share * len(touched), name
            assert len({tuple(row.flatten().tolist()) for row in new}) >= share * len(new), name
    assert num_matrices >= 2


@pytest.mark.parametrize("fresh", FRESH)
@pytest.mark.parametrize(
    "case", slow_but([one for one in WIDER if one not in (*RELU, *NEVER_SILENT, *UNFED)], ("llama", "gpt2", "phi3"))
)
def test_new_feed_forward_units_are_exact_and_alive(tmp_path: Path, case: str, fresh: Fresh) -> None:
    check_alive(*check(tmp_path, case, fresh, ffn=47))  # of 20: beyond twice as many


@pytest.mark.sampled(3)
@pytest.mark.parametrize("fresh", FRESH)
@pytest.mark.parametrize("case", slow_but(list(HEADED), ("llama biased", "t5")))
def test_new_heads_are_exact_and_alive(tmp_path: Path, case: str, fresh: Fresh) -> None:
    check_alive(*check(tmp_path, case, fresh, **HEADED[case]))


@pytest.mark.parametrize("fresh", FRESH)
def test_heads_that_share_one_value_head_are_silent_by_no_zeros_of_their_own(tmp_path: Path, fresh: Fresh) -> None:
    if fresh == "random-zero":
        check_alive(*check(tmp_path, "llama of one key head", fresh, heads=8))
        return
    for case, sizes in (("llama of one key head", {"heads": 8}), ("gpt_bigcode", {"hidden": 24})):
        source = still_run(tmp_path / "small.ckpt", case)
        with pytest.raises(RequestError, match="read none of their own; leave fresh out"):
            ckptgrow.width(source, tmp_path / "grown.ckpt", how="pad", fresh=fresh, **sizes)
    check_alive(*check(tmp_path, "llama of one key head", fresh, heads=8, kv_heads=2))


@pytest.mark.parametrize("fresh", SILENT)
@pytest.mark.parametrize("case", slow_but(HIDDEN, ("llama tied", "gpt_neox")))
def test_a_larger_hidden_size_is_exact_and_alive(tmp_path: Path, case: str, fresh: Fresh) -> None:
    _, grown = check(tmp_path, case, fresh, hidden=24)
    before = {name: parameter.detach().clone() for name, parameter in grown.named_parameters()}
    trained(grown, torch.optim.SGD(grown.parameters(), lr=0.1), batches(3))
    matrices = [(name, one) for name, one in grown.named_parameters() if one.dim() == 2 and one.shape[1] == 24]
    assert matrices and all((one.detach() != before[name])[:, 16:].any() for name, one in matrices)


def rows(model: Any, name: str) -> torch.Tensor:
    return model.get_parameter(name).detach()


def test_zero_copy_of_a_gated_unit_and_of_a_head_is_what_it_says(tmp_path: Path) -> None:
    small, grown = check(tmp_path, "llama biased", "zero-copy", ffn=50, heads=8)
    layer = "model.layers.1."
    for name in ("mlp.gate_proj.weight", "mlp.gate_proj.bias"):
        assert torch.equal(rows(grown, layer + name)[20:40], rows(small, layer + name))
    for name in ("mlp.up_proj.weight", "mlp.up_proj.bias", "mlp.gate_proj.bias"):
        assert not rows(grown, layer + name)[20 if "up" in name else 40 :].any()
    down, old_down = (rows(one, layer + "mlp.down_proj.weight") for one in (grown, small))
    assert torch.equal(down[:, 20:40], old_down) and bool(down[:, 40:].any(0).all())
    for part in ("q", "k"):
        for kind in ("weight", "bias"):
            name = f"{layer}self_attn.{part}_proj.{kind}"
            assert torch.equal(rows(grown, name)[16:], rows(small, name))
    for kind in ("weight", "bias"):
        assert not rows(grown, f"{layer}self_attn.v_proj.{kind}")[16:].any()
    name = layer + "self_attn.o_proj.weight"
    assert torch.equal(rows(grown, name)[:, 16:], rows(small, name))


def test_the_new_moments_are_zero_and_most_of_them_exactly(tmp_path: Path) -> None:
    """What stands beside a zero of the other side has gradient zero; what silences a unit has seen none."""
    _, grown = check(tmp_path, "llama", "zero-copy", ffn=40)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    real = still(grown.parameters())
    trained(grown, real, batches(5))
    largest = max(float(record["exp_avg"].abs().max()) for record in real.state.values())
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        stored, found = tree["optimizer_states"][0]["state"][index], real.state[parameter]
        if "mlp" not in name:
            continue
        axis = 1 if "down" in name else 0
        old = [record["exp_avg"].narrow(axis, 0, 20) for record in (stored, found)]
        torch.testing.assert_close(*old, rtol=1e-9, atol=1e-12)
        assert not stored["exp_avg"].narrow(axis, 20, 20).any() and not stored["exp_avg_sq"].narrow(axis, 20, 20).any()
        new = float(found["exp_avg"].narrow(axis, 20, 20).abs().max())
        assert (new > 1e-3 * largest) if "up" in name else (new <= 1e-12 * largest), name


@pytest.mark.parametrize("fresh", SILENT)
@pytest.mark.parametrize("case", RELU)
def test_units_that_would_be_dead_behind_relu_are_refused(tmp_path: Path, case: str, fresh: Fresh) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match=r'activation relu2? .* use fresh="random-zero"'):
        ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=30, how="pad", fresh=fresh)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.parametrize("fresh", SILENT)
@pytest.mark.parametrize("case", NEVER_SILENT)
def test_units_that_no_zeros_silence_are_drawn_alone(tmp_path: Path, case: str, fresh: Fresh) -> None:
    source = still_run(tmp_path / "small.ckpt", case)
    with pytest.raises(RequestError, match=r'no factor of .* use fresh="random-zero"'):
        ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=30, how="pad", fresh=fresh)
    check_alive(*check(tmp_path, case, "random-zero", ffn=30))


@pytest.mark.parametrize("case", slow_but(RELU, ("opt",)))
def test_behind_relu_drawn_units_are_alive(tmp_path: Path, case: str) -> None:
    check_alive(*check(tmp_path, case, "random-zero", ffn=30), share=0.2)  # the rest is off for every token here


@pytest.mark.parametrize("fresh", SILENT)
def test_units_that_zeros_alone_would_read_are_refused(tmp_path: Path, fresh: Fresh) -> None:
    small = perturbed("llama")
    with torch.no_grad():
        small.get_parameter("model.layers.1.mlp.down_proj.weight").zero_()
    source = saved(tmp_path / "small.ckpt", small, still)
    with pytest.raises(RequestError, match=r"layers.1.mlp.down_proj.weight: is zero.*neither side would ever"):
        ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=30, how="pad", fresh=fresh)
    ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=30, how="pad", fresh="random-zero")


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"hidden": 24, "how": "pad", "fresh": "random-zero"}, "drawn coordinates of the residual stream"),
        ({"ffn": 30, "fresh": "zero-copy"}, 'leave it out, or give how="pad"'),
        ({"factor": 2, "fresh": "zero-copy"}, 'leave it out, or give how="pad"'),
    ],
)
def test_recipes_that_cannot_be_are_refused(tmp_path: Path, sizes: dict[str, Any], reason: str) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama")
    with pytest.raises(RequestError, match=reason):
        ckptgrow.width(source, tmp_path / "grown.ckpt", **sizes)


def weight(tree: Tree, name: str) -> torch.Tensor:
    return tree["state_dict"][f"model.model.layers.0.{name}.weight"]


def a_copy(tree: Tree) -> str:
    weight(tree, "mlp.gate_proj")[23, 4] += 1e-6
    return "gate_proj.weight: 1 new entries are not copies of the old ones, as --fresh zero-copy has them"


def a_zero(tree: Tree) -> str:
    weight(tree, "mlp.up_proj")[23, 4] = 1e-14  # the function does not see it
    return "up_proj.weight: 1 new entries are not zero, as --fresh zero-copy has them"


def a_column(tree: Tree) -> str:
    weight(tree, "mlp.down_proj")[:, 30].mul_(-1)
    return "down_proj.weight: 16 new entries are not copies of the old ones"


def a_head(tree: Tree) -> str:
    heads = weight(tree, "self_attn.q_proj")
    heads[16:20] = heads[20:24].clone()
    return "q_proj.weight: 64 new entries are not copies of the old ones"


def drawn_ones(tree: Tree) -> str:
    weight(tree, "mlp.down_proj")[:, 40:].mul_(100)
    return "down_proj.weight: 80 new entries are"


def the_recipe(tree: Tree) -> str:
    tree["ckptgrow"]["history"][-1]["fresh"] = None
    return "down_proj.weight: 400 new entries are not zero, as --how pad has them"


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "tamper", [a_copy, a_zero, a_column, a_head, drawn_ones, the_recipe], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("stored", [torch.float64, torch.bfloat16])
def test_a_planted_mistake_in_the_recipe_is_named(
    tmp_path: Path, tamper: Callable[[Tree], str], stored: torch.dtype
) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed("llama").to(stored))
    ckptgrow.width(source, tmp_path / "grown.ckpt", how="pad", fresh="zero-copy", ffn=45, heads=8)
    settings = Settings(batches=1)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=settings).passed
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    if stored == torch.bfloat16 and tamper is a_copy:
        return  # far below a rounding
    named = tamper(tree)
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(source, tmp_path / "tampered.ckpt", settings=settings)
    assert not report.passed
    assert any(named in sentence for sentence in report.sentences), report.sentences


def test_a_mean_that_is_none_is_named(tmp_path: Path) -> None:
    source = still_run(tmp_path / "small.ckpt", "gpt2")
    ckptgrow.width(source, tmp_path / "grown.ckpt", how="pad", fresh="zero-copy", hidden=24)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    tree["state_dict"]["model.transformer.wpe.weight"][31, 20] += 1e-3  # no sample is so long
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(source, tmp_path / "tampered.ckpt", settings=Settings(batches=1))
    assert any("wpe.weight: 1 new entries are not means of the old ones" in one for one in report.sentences)


def test_every_family_that_grows_in_width_has_a_case() -> None:
    assert {CASES[case][0] for case in WIDER} >= {CASES[case][0] for case in (*HEADED, *HIDDEN, *RELU)}
