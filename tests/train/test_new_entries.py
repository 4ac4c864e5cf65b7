"""New entries, rates of their own for them, and training of new layers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.errors import CkptgrowError
from ckptgrow.train import NewRates, new_entries
from ckptgrow.train.additions import NewEntries
from tests.helpers.commands import refused
from tests.helpers.families import loaded, perturbed
from tests.helpers.lightning_files import save_lightning
from tests.helpers.training_runs import TINY, config_file, tiny_data, train_here

NEW = StateRequest(reset=("new",))


def run_of_ones(path: Path, case: str) -> Path:
    """A checkpoint whose first moments are 1 in every entry, so that they show what was begun anew."""
    model = perturbed(case)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        ones = torch.ones_like(parameter)
        optimizer.state[parameter] = {"step": torch.tensor(5.0), "exp_avg": ones, "exp_avg_sq": ones.clone()}
    return save_lightning(path, model, [optimizer])


def begun_anew(tree: dict[str, Any], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Where stored first moments are zero."""
    state = tree["optimizer_states"][0]["state"]
    return {name: state[number]["exp_avg"] == 0 for number, (name, _) in enumerate(model.named_parameters())}


WIDTHS = [
    ("gpt2", {"factor": 2}),
    ("llama", {"factor": 3}),
    ("llama", {"heads": 8, "kv_heads": 4}),
    ("llama", {"hidden": 24, "ffn": 27, "how": "pad"}),
    ("gpt_neox", {"factor": 2}),
    ("phi3", {"ffn": 33}),
    ("mixtral", {"factor": 2}),
]


@pytest.mark.parametrize(("case", "sizes"), WIDTHS, ids=str)
def test_new_entries_are_those_whose_moments_reset_new_makes_zero(
    tmp_path: Path, case: str, sizes: dict[str, Any]
) -> None:
    """The record and the layouts on one side, the gather of the moments on the other."""
    ckptgrow.width(run_of_ones(tmp_path / "small.ckpt", case), tmp_path / "grown.ckpt", **sizes, request=NEW)
    grown, tree = loaded(tmp_path / "grown.ckpt")
    found = new_entries(grown, tree)
    for name, expected in begun_anew(tree, grown).items():
        mask = found[name].mask() if name in found else torch.zeros_like(expected)
        assert torch.equal(mask, expected), name
    assert new_entries(grown, tmp_path / "grown.ckpt").keys() == found.keys() != {}


def test_what_was_grown_without_training_between_is_new_together(tmp_path: Path) -> None:
    source = run_of_ones(tmp_path / "small.ckpt", "llama")
    paths = [tmp_path / f"{number}.ckpt" for number in range(3)]
    ckptgrow.width(source, paths[0], factor=2, request=NEW)
    ckptgrow.depth(paths[0], paths[1], new="copy", request=NEW)
    ckptgrow.width(paths[1], paths[2], ffn=61, request=NEW)
    grown, tree = loaded(paths[2])
    found = new_entries(grown, tree)
    for name, expected in begun_anew(tree, grown).items():
        assert torch.equal(found[name].mask(), expected), name
    whole = {name.split(".")[2] for name, one in found.items() if one.is_whole}
    assert whole == {"1", "3"}
    tree["ckptgrow"]["history"][0]["step"] = [5, 4]  # and one step of training until the next
    later = new_entries(grown, tree)
    assert later.keys() < found.keys() and not later["model.layers.0.mlp.up_proj.weight"].axes[1].any()


def by_the_entry(optimizer: str) -> tuple[Any, dict[str, Any]]:
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "AdamW": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.3, "betas": (0.9, 0.95)}),
        "SGD": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.2, "nesterov": True}),
        "Muon": (torch.optim.Muon, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.3}),
    }
    return kinds[optimizer]


class RateAnEntry:
    """The same optimizers written out, the learning rate being a tensor of the parameter's shape."""

    def __init__(self, kind: str, parameter: torch.Tensor, options: dict[str, Any]) -> None:
        self.kind, self.options = kind, options
        self.value = parameter.detach().clone()
        self.m, self.v, self.steps = torch.zeros_like(self.value), torch.zeros_like(self.value), 0
        self.twin = torch.zeros_like(self.value, requires_grad=True)
        self.direction = torch.optim.Muon([self.twin], lr=1.0, momentum=0.9, weight_decay=0.0)

    def step(self, gradient: torch.Tensor, lr: torch.Tensor) -> None:
        self.steps += 1
        decay = self.options["weight_decay"]
        if self.kind == "SGD":
            gradient = gradient + decay * self.value
            self.m = gradient.clone() if self.steps == 1 else 0.9 * self.m + gradient
            self.value = self.value - lr * (gradient + 0.9 * self.m)
            return
        self.value = self.value * (1 - lr * decay)
        if self.kind == "Muon":  # its own direction: what it moves a zero without decay by
            with torch.no_grad():
                self.twin.zero_()
            self.twin.grad = gradient.clone()
            self.direction.step()
            self.value = self.value + lr * self.twin.detach()
            return
        beta1, beta2 = self.options["betas"]
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient**2
        corrected = self.m / (1 - beta1**self.steps), self.v / (1 - beta2**self.steps)
        self.value = self.value - lr * corrected[0] / (corrected[1].sqrt() + 1e-8)


class Alone(torch.nn.Module):
    """One matrix, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, 10, dtype=torch.float64) / 8)


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "Muon"])
def test_it_is_the_optimizer_with_a_learning_rate_an_entry(kind: str) -> None:
    torch.manual_seed(0)
    model, (build, options) = Alone(), by_the_entry(kind)
    axes = torch.arange(6).numpy() >= 3, torch.arange(10).numpy() >= 6
    is_new = ~((torch.arange(6)[:, None] < 3) & (torch.arange(10)[None] < 6))
    optimizer = build(model.parameters(), **options)
    rates = NewRates(optimizer, model, {"weight": NewEntries(axes)}, peak=1.7, steps=6)
    reference = RateAnEntry(kind, model.weight, options)
    factors = [1 + 0.7 * min(1.0, step / 6) for step in range(1, 11)]
    for factor in factors:
        gradient = torch.randn(6, 10, dtype=torch.float64)
        model.weight.grad = gradient.clone()
        assert rates.factor == pytest.approx(factor, rel=1e-12)
        optimizer.step()
        reference.step(gradient, options["lr"] * torch.where(is_new, rates_of(factor), 1.0))
    assert float((model.weight.detach() - reference.value).abs().max()) <= 1e-15
    rates.remove()
    model.weight.grad = torch.randn(6, 10, dtype=torch.float64)
    optimizer.step()
    reference.step(model.weight.grad, torch.full((6, 10), options["lr"], dtype=torch.float64))
    assert float((model.weight.detach() - reference.value).abs().max()) <= 1e-15


def rates_of(factor: float) -> torch.Tensor:
    return torch.tensor(factor, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_peak_of_one_changes_no_bit(dtype: torch.dtype) -> None:
    found: list[torch.Tensor] = []
    for peak in (None, 1.0):
        torch.manual_seed(0)
        model = Alone().to(dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        if peak is not None:
            axes = torch.arange(6).numpy() >= 3, torch.arange(10).numpy() >= 10
            NewRates(optimizer, model, {"weight": NewEntries(axes)}, peak=peak, steps=3)
        for _ in range(5):
            model.weight.grad = torch.randn(6, 10).to(dtype)
            optimizer.step()
        found.append(model.weight.detach())
    assert torch.equal(*found)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    directory = tmp_path_factory.mktemp("small")
    options = [f"--data={data}", f"--config={config_file(directory)}", f"--out={directory}", "--batch-size=4"]
    train_here([*options, "--schedule=constant", "--train-steps=6"])
    return directory / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def wide(small: Path) -> Path:
    ckptgrow.width(small, small.with_name("wide.ckpt"), factor=2)
    return small.with_name("wide.ckpt")


@pytest.fixture(scope="module")
def deep(small: Path) -> Path:
    ckptgrow.depth(small, small.with_name("deep.ckpt"))
    return small.with_name("deep.ckpt")


def tree_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_train_moves_new_entries_by_the_factor_and_goes_on_to_the_bit(tmp_path: Path, data: Path, wide: Path) -> None:
    common = [f"--data={data}", "--train-steps=14", "--save-every=1"]
    train_here([*common, f"--resume={wide}", f"--out={tmp_path / 'without'}", "--train-steps=7"])
    train_here([*common, f"--resume={wide}", f"--out={tmp_path / 'with'}", "--rewarm-new=1.5,4"])
    first, without, with_it = (
        tree_of(path)["state_dict"]["model.transformer.h.1.mlp.c_fc.weight"].double()
        for path in (
            wide,
            tmp_path / "without" / "checkpoints" / "step-7.ckpt",
            tmp_path / "with" / "checkpoints" / "step-7.ckpt",
        )
    )
    assert torch.equal(with_it[:12, :48], without[:12, :48])
    moved = (with_it - first)[12:].norm() / (without - first)[12:].norm()
    assert float(moved) == pytest.approx(1.125, rel=1e-5)  # weights in float32
    interrupted = tmp_path / "with" / "checkpoints" / "step-9.ckpt"
    assert tree_of(interrupted)["ckptgrow"]["rewarm_new"] == {"peak": 1.5, "steps": 4, "done": 3}
    train_here([*common, f"--resume={interrupted}", f"--out={tmp_path / 'again'}"])
    whole, again = (tree_of(tmp_path / name / "checkpoints" / "step-14.ckpt") for name in ("with", "again"))
    assert all(torch.equal(tensor, again["state_dict"][name]) for name, tensor in whole["state_dict"].items())
    assert whole["ckptgrow"] == again["ckptgrow"] and whole["ckptgrow"]["rewarm_new"]["done"] == 8


def test_only_new_layers_train_and_the_rest_keeps_weights_and_records(tmp_path: Path, data: Path, deep: Path) -> None:
    common = [f"--data={data}", f"--out={tmp_path / 'a'}", "--save-every=4"]
    train_here([*common, f"--resume={deep}", "--freeze=old-layers", "--train-steps=10"])
    train_here([*common, f"--resume={tmp_path / 'a' / 'checkpoints' / 'step-10.ckpt'}", "--train-steps=14"])
    before, after = tree_of(deep), tree_of(tmp_path / "a" / "checkpoints" / "step-14.ckpt")
    states = [records_by_name(one) for one in (before, after)]
    for name, tensor in after["state_dict"].items():
        is_new = ".h.1." in name or ".h.3." in name
        assert torch.equal(tensor, before["state_dict"][name]) != is_new, name
        if name in states[0]:
            old, new = states[0][name], states[1][name]
            assert all(torch.equal(old[key], new[key]) for key in old) != is_new, name
            assert float(new["step"]) == (8 if is_new else 6)
    train_here(
        [*common, f"--resume={tmp_path / 'a' / 'checkpoints' / 'step-14.ckpt'}", "--freeze=none", "--train-steps=15"]
    )
    last = tree_of(tmp_path / "a" / "checkpoints" / "last.ckpt")["state_dict"]
    assert not torch.equal(last["model.transformer.wte.weight"], after["state_dict"]["model.transformer.wte.weight"])


def records_by_name(tree: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    (state,) = tree["optimizer_states"]
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    return {name: state["state"][number] for number, name in enumerate(names)}


def test_what_cannot_be_is_refused_and_leaves_nothing(
    tmp_path: Path, data: Path, small: Path, wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", *TINY, f"--data={data}", f"--out={tmp_path / 'out'}", "--train-steps=12"]
    refused([*run, f"--resume={small}", "--rewarm-new=1.3,5"], capsys, "--rewarm-new", "no growth is recorded")
    refused([*run, f"--resume={wide}", "--freeze=old-layers"], capsys, "--freeze old-layers", "added no layer")
    refused([*run, f"--resume={wide}", "--rewarm-new=0,5"], capsys, "--rewarm-new 0,5", "above 0")
    refused([*run, f"--resume={wide}", "--rewarm-new=1.3"], capsys, "--rewarm-new 1.3", "1.3,250")
    refused([*run, f"--resume={wide}", "--rewarm-new=1.3,250"], capsys, "--rewarm-new 1.3,250", "has 6 steps")
    fresh = [*run, f"--config={config_file(tmp_path)}"]
    refused([*fresh, "--rewarm-new=1.3,5"], capsys, "--rewarm-new", "--resume")
    refused([*fresh, "--freeze=old-layers"], capsys, "--freeze", "--resume")
    assert not (tmp_path / "out").exists()


def test_an_optimizer_without_the_models_parameters_is_refused(tmp_path: Path) -> None:
    model = Alone()
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(6, 10))])
    axes = torch.arange(6).numpy() >= 3, torch.arange(10).numpy() >= 6
    with pytest.raises(CkptgrowError, match="the optimizer has no weight"):
        NewRates(other, model, {"weight": NewEntries(axes)})


def test_a_growth_says_that_the_rates_of_the_one_before_end(tmp_path: Path, data: Path, wide: Path) -> None:
    train_here([f"--data={data}", f"--resume={wide}", f"--out={tmp_path}", "--rewarm-new=1.3,1", "--train-steps=7"])
    done = ckptgrow.depth(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "grown.ckpt")
    assert any("1.3 times the learning rate: that ends here" in str(note) for note in done.notes)
    assert "rewarm_new" not in tree_of(tmp_path / "grown.ckpt")["ckptgrow"]
    assert ckptgrow.verify(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "grown.ckpt").passed
