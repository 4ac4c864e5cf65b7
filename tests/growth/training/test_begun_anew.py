"""Moments of what is new begin at zero, and old ones by the algebra or as they are: against states made by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import RequestError
from ckptgrow.growth.training.first_updates import FirstUpdates
from tests.helpers.commands import refused
from tests.helpers.gpt2 import token_batches, train
from tests.helpers.lightning_files import load_model, save_lightning
from tests.helpers.optimizer_states import NUM_STEPS, states_by_name
from tests.helpers.optimizers import CASES, anew, resumed, stored, tiny_gpt2
from tests.helpers.training_runs import config_file, tiny_data, train_here

NEW = StateRequest(reset=("new",))
RULES = {
    "algebra, new": NEW,
    "unscaled, new": StateRequest(reset=("new",), moments="unscaled"),
    "unscaled": StateRequest(moments="unscaled"),
}
Tree = dict[str, Any]


def places_of_old(name: str, new: torch.Size, old: torch.Size) -> list[torch.Tensor]:
    """Along each axis, where the old coordinates lie: at the beginning, of each third where q, k and v are fused."""
    places: list[torch.Tensor] = []
    for axis, (size, had) in enumerate(zip(new, old, strict=True)):
        is_fused = "c_attn" in name and axis == len(new) - 1
        part, kept = (size // 3, had // 3) if is_fused else (size, had)
        places.append(torch.cat([start + torch.arange(kept) for start in range(0, size, part)]))
    return places


def by_hand(name: str, old: torch.Tensor, real: torch.Tensor, request: StateRequest) -> torch.Tensor:
    """What the entry must be: `real` is the one that the optimizer itself gathers in the grown model."""
    places = torch.meshgrid(*places_of_old(name, real.shape, old.shape), indexing="ij")
    if "new" not in request.reset:  # a copy's row or column is the old one, again in each third
        copies = [torch.arange(new) % had for new, had in zip(real.shape, old.shape, strict=True)]
        if "c_attn" in name:
            third, size = old.shape[-1] // 3, real.shape[-1] // 3
            copies[-1] = torch.cat([part * third + torch.arange(size) % third for part in range(3)])
        return old[torch.meshgrid(*copies, indexing="ij")]
    expected = torch.zeros_like(real)
    expected[places] = old if request.moments == "unscaled" else real[places]
    return expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("optimizer", ["AdamW, amsgrad", "SGD, momentum", "Lion"])
def test_moments_are_those_of_a_state_made_by_hand(tmp_path: Path, optimizer: str, rule: str) -> None:
    case, request = CASES[optimizer], RULES[rule]
    model, source = tiny_gpt2(), tmp_path / "small.ckpt"
    small = case.build(model.parameters(), 0.0)
    train(model, small, token_batches(NUM_STEPS))
    save_lightning(source, model, [small], global_step=NUM_STEPS)
    ckptgrow.width(source, tmp_path / "grown.ckpt", separate="none", request=request)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    loaded = resumed(grown, state, case.build, case.lr)
    found = states_by_name(loaded, grown)
    gathering = anew(grown, state, case.build, 0.0)
    train(grown, gathering, token_batches(NUM_STEPS))
    real, olds = states_by_name(gathering, grown), states_by_name(small, model)
    for name, record in found.items():
        for key, value in record.items():
            old = olds[name][key]
            if not isinstance(value, torch.Tensor) or not value.dim():
                assert float(value) == float(old), (name, key)
                continue
            expected = by_hand(name, old, real[name][key], request)
            error = float((value - expected).abs().max()) / float(old.abs().max().clamp(min=1e-12))
            assert error <= 1e-9 or name.endswith("c_attn.bias"), (name, key, error)  # keys' have no gradient
            if "new" in request.reset:
                assert torch.equal(value == 0, value.mul(expected != 0) == 0), (name, key)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1)).passed


GROWTHS: dict[str, Callable[[Path, Path, StateRequest], Any]] = {
    "split": lambda a, b, request: ckptgrow.width(a, b, factor=2, request=request),
    "uneven": lambda a, b, request: ckptgrow.width(a, b, ffn=17, request=request),
    "pad": lambda a, b, request: ckptgrow.width(a, b, ffn=14, how="pad", request=request),
    "copy": lambda a, b, request: ckptgrow.depth(a, b, new="copy", request=request),
}


@cache
def trained_run(directory: Path, optimizer: str) -> Path:
    model = tiny_gpt2()
    trained = CASES[optimizer].build(model.parameters(), CASES[optimizer].lr)
    train(model, trained, token_batches(NUM_STEPS))
    return save_lightning(directory / f"{optimizer}.ckpt", model, [trained], global_step=NUM_STEPS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    ("growth", "optimizer"),
    [
        ("split", "Adafactor"),
        ("split", "Adafactor of transformers, averaged"),
        ("uneven", "AdamW"),
        ("pad", "AdamW"),
        ("copy", "NAdam"),
        ("copy", "Adafactor of transformers, averaged"),
    ],
)
def test_every_way_of_growth_verifies(tmp_path: Path, directory: Path, growth: str, optimizer: str) -> None:
    source = trained_run(directory, optimizer)
    GROWTHS[growth](source, tmp_path / "grown.ckpt", NEW)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1))
    assert report.function.passed or growth == "copy"
    assert report.structure.passed and report.moments is not None and report.moments.passed, report.sentences


@pytest.mark.parametrize(("request_", "is_trapped"), [(NEW, False), (StateRequest(), True)], ids=["new", "kept"])
def test_it_tells_equal_copies_apart(tmp_path: Path, directory: Path, request_: StateRequest, is_trapped: bool) -> None:
    source = trained_run(directory, "AdamW")
    done = ckptgrow.width(source, tmp_path / "grown.ckpt", separate="none", request=request_)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1))
    assert report.asymmetry is not None and report.asymmetry.trapped == done.trapped == is_trapped
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    train(grown, resumed(grown, state, CASES["AdamW"].build, CASES["AdamW"].lr), token_batches(6, seed=5))
    halves = grown.get_parameter("transformer.wte.weight").detach().chunk(2, dim=1)
    assert torch.allclose(*halves, rtol=0.0, atol=1e-6) == is_trapped


def test_growths_after_one_another_verify_with_the_first_ones_new_entries_begun_anew(
    tmp_path: Path, directory: Path
) -> None:
    source = trained_run(directory, "AdamW")
    first, second, third = (tmp_path / f"{number}.ckpt" for number in range(3))
    ckptgrow.width(source, first, factor=2, request=NEW)
    ckptgrow.depth(first, second, request=StateRequest())
    ckptgrow.width(second, third, factor=2, request=StateRequest())
    report = ckptgrow.verify(source, third, settings=Settings(batches=1))
    assert report.passed, report.sentences
    tokens = stored(third)[0]["state"][0]["exp_avg"][3]
    assert not tokens[6:12].any() and not tokens[18:].any() and torch.equal(tokens[:6], tokens[12:18])
    ckptgrow.width(source, tmp_path / "a.ckpt", factor=2, request=StateRequest(moments="unscaled"))
    ckptgrow.width(tmp_path / "a.ckpt", tmp_path / "b.ckpt", factor=2)
    with pytest.raises(RequestError, match="verify each on its own"):
        ckptgrow.verify(source, tmp_path / "b.ckpt", settings=Settings(batches=1))


def a_new_moment(tree: Tree) -> str:
    tree["optimizer_states"][0]["state"][0]["exp_avg"][3, 9] = 1e-9
    return "exp_avg of model.transformer.wte.weight"


def an_old_moment(tree: Tree) -> str:
    tree["optimizer_states"][0]["state"][0]["exp_avg_sq"][3, 4] *= 1.001
    return "exp_avg_sq of model.transformer.wte.weight"


def no_reset(tree: Tree) -> str:
    tree["ckptgrow"]["history"][-1]["reset"] = []
    return "differs from what the gradients demand"


def another_rule(tree: Tree) -> str:
    tree["ckptgrow"]["history"][-1]["moments"] = "unscaled"
    return "differs from what the gradients demand"


def other_coordinates(tree: Tree) -> str:
    tree["ckptgrow"]["history"][-1]["new_coordinates"]["ffn"] = [[10, 19]]
    return "of ffn are new, which its sizes contradict"


def no_coordinates(tree: Tree) -> str:
    del tree["ckptgrow"]["history"][-1]["new_coordinates"]
    return "are new, which its sizes contradict"


@pytest.mark.parametrize(
    "tamper",
    [a_new_moment, an_old_moment, no_reset, another_rule, other_coordinates, no_coordinates],
    ids=lambda tamper: tamper.__name__,
)
def test_what_is_planted_in_it_is_named(tmp_path: Path, directory: Path, tamper: Callable[[Tree], str]) -> None:
    source = trained_run(directory, "AdamW")
    ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, request=NEW)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    named = tamper(tree)
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(source, tmp_path / "tampered.ckpt", settings=Settings(batches=1))
    assert not report.passed
    assert any(named in sentence for sentence in report.sentences), report.sentences


def test_train_goes_on_with_it(tmp_path: Path) -> None:
    """After one step from zero, m = (1 − β₁) g and v = (1 − β₂) g² have one and the same gradient: in new entries."""
    common = [f"--data={tiny_data(tmp_path)}", "--batch-size=4", "--schedule=constant", "--adam-beta2=0.98"]
    train_here([*common, f"--config={config_file(tmp_path)}", f"--out={tmp_path / 'a'}", "--train-steps=6"])
    source, grown = tmp_path / "a" / "checkpoints" / "last.ckpt", tmp_path / "grown.ckpt"
    ckptgrow.width(source, grown, factor=2, request=NEW)
    common.remove("--adam-beta2=0.98")
    train_here([*common, f"--resume={grown}", f"--out={tmp_path / 'b'}", "--train-steps=7"])
    (state,) = stored(tmp_path / "b" / "checkpoints" / "last.ckpt")
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    record = state["state"][names.index("model.transformer.h.0.mlp.c_fc.weight")]
    assert float(record["step"]) == 7
    gradients = (record["exp_avg"].double() / 0.1) ** 2, record["exp_avg_sq"].double() / 0.02
    is_fresh = torch.isclose(*gradients, rtol=1e-4, atol=0.0)
    is_new = torch.ones_like(is_fresh)
    is_new[:12, :48] = False
    assert is_fresh[is_new].all() and not is_fresh[~is_new].any()


@pytest.mark.parametrize(
    ("betas", "step"), [((0.9, 0.999), 5000), ((0.9, 0.95), 300), ((0.95, 0.99), 4), ((0.0, 0.9), 9)]
)
def test_first_updates_are_those_of_adamw_itself(betas: tuple[float, float], step: int) -> None:
    parameter = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=1.0, betas=betas, eps=0.0, weight_decay=0.0)
    zero = torch.zeros((), dtype=torch.float64)
    optimizer.state[parameter] = {"step": torch.tensor(float(step)), "exp_avg": zero, "exp_avg_sq": zero.clone()}
    sizes: list[float] = []
    for _ in range(400):
        before = float(parameter.detach())
        parameter.grad = torch.tensor(-3.0, dtype=torch.float64)
        optimizer.step()
        sizes.append(float(parameter.detach()) - before)
    found = FirstUpdates.of(*betas, step)
    assert found.first == pytest.approx(sizes[0], rel=1e-9)
    assert (found.largest, found.number) == (pytest.approx(max(sizes), rel=1e-9), 1 + sizes.index(max(sizes)))


def test_the_largest_of_them_is_told(tmp_path: Path, directory: Path) -> None:
    done = ckptgrow.width(trained_run(directory, "AdamW"), tmp_path / "grown.ckpt", factor=2, request=NEW)
    expected = FirstUpdates.of(0.9, 0.999, NUM_STEPS)
    assert any(f"at most {expected.largest:.2g} lr, at update {expected.number}" in str(note) for note in done.notes)


def test_contradictions_are_refused(tmp_path: Path, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grow = ["width", str(trained_run(directory, "AdamW")), str(tmp_path / "grown.ckpt")]
    refused([*grow, "--reset", "new,optimizer"], capsys, "--reset optimizer", "--reset new")
    refused([*grow, "--reset", "optimizer", "--moments", "unscaled"], capsys, "--moments unscaled")
    pad = ["--how", "pad", "--ffn", "14", "--fresh-moments", "mean"]
    refused([*grow, *pad, "--reset", "new"], capsys, "--fresh-moments mean", "--reset new")
    assert not (tmp_path / "grown.ckpt").exists()
