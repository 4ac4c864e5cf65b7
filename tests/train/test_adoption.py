"""A run goes on from whatever growth writes: any prefix, order and kind, with the trajectory that it had."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.train import parameter_groups
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning
from tests.helpers.training_runs import CONFIG, config_file, losses, tiny_data, train_here

GOING_ON = ["--train-steps=14", "--batch-size=4", "--schedule=linear", "--warmup-steps=3", "--seed=3", "--grad-clip=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of a run of this command."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train_here([f"--data={data}", f"--config={config_file(data.parent)}", *GOING_ON, "--save-every=6", f"--out={out}"])
    return out / "checkpoints" / "step-6.ckpt"


@pytest.fixture(scope="module")
def expected(source: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """How Lightning itself goes on from the run's own file, from the beginning of the data."""
    out = tmp_path_factory.mktemp("expected") / "out"
    train_here([f"--data={data}", f"--resume={source}", f"--out={out}", "--reset=data"])
    return losses(out)


def of_another_script(tree: dict[str, Any], prefix: str) -> None:
    """Hyper-parameters of its own, no names, another prefix."""
    tree["hyper_parameters"] = {"config": tree["hyper_parameters"]["config"], "lr": "fast", "data": "somewhere"}
    tree["state_dict"] = {prefix + name.removeprefix("model."): one for name, one in tree["state_dict"].items()}
    tree["lr_schedulers"] = []
    del tree["position"], tree["tokens_seen"]


def without_names(tree: dict[str, Any]) -> None:
    for group in tree["optimizer_states"][0]["param_groups"]:
        del group["param_names"]


def in_another_order(tree: dict[str, Any]) -> None:
    """The small group first, and every name in it anywhere."""
    state = tree["optimizer_states"][0]
    for group in state["param_groups"]:
        pairs = list(zip(group["params"], group["param_names"], strict=True))
        random.Random(0).shuffle(pairs)
        group["params"], group["param_names"] = ([pair[place] for pair in pairs] for place in (0, 1))
    state["param_groups"].reverse()


def by_name(tree: dict[str, Any]) -> None:
    in_another_order(tree)
    state = tree["optimizer_states"][0]
    name_of = {
        n: name for one in state["param_groups"] for n, name in zip(one["params"], one["param_names"], strict=True)
    }
    state["state"] = {name_of[number]: record for number, record in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = group.pop("param_names")


FORMS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "no prefix, no names": ("", without_names),
    "module., no names": ("module.", without_names),
    "net., any order": ("net.", in_another_order),
    "compiled, any order": ("model._orig_mod.", in_another_order),
    "consolidated, by name": ("model.", by_name),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("growth", ["none", "mup"])
@pytest.mark.parametrize("form", [*FORMS, "huggingface", "dcp"])
def test_the_loss_goes_on_as_in_the_runs_own_file(
    tmp_path: Path, source: Path, data: Path, expected: dict[int, float], form: str, growth: str
) -> None:
    tree = torch.load(source, weights_only=True)
    prefix, change = FORMS.get(form, ("model.", without_names))
    of_another_script(tree, prefix)
    change(tree)
    path = tmp_path / "other.ckpt"
    torch.save(tree, path)
    if growth == "mup":
        ckptgrow.width(path, tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule="mup"))
        path = tmp_path / "grown.ckpt"
    if form in ("huggingface", "dcp"):
        ckptgrow.convert(path, tmp_path / form, form)
        path = tmp_path / form
    train_here([f"--data={data}", f"--resume={path}", f"--out={tmp_path / 'out'}", *GOING_ON])
    found = losses(tmp_path / "out")
    assert found.keys() == expected.keys() == set(range(7, 15))
    tolerance = 1e-4 if growth == "mup" else 1e-6  # float32 losses of about 5, summed in another order
    assert max(abs(found[step] - expected[step]) for step in found) <= tolerance


def test_a_run_that_went_on_goes_on_from_its_own_checkpoints(tmp_path: Path, source: Path, data: Path) -> None:
    ckptgrow.convert(source, tmp_path / "small", "huggingface")
    ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    train_here(
        [f"--data={data}", f"--resume={tmp_path / 'grown'}", f"--out={tmp_path / 'a'}", *GOING_ON, "--save-every=4"]
    )
    again = f"--resume={tmp_path / 'a' / 'checkpoints' / 'step-8.ckpt'}"
    train_here([f"--data={data}", again, f"--out={tmp_path / 'b'}"])
    assert losses(tmp_path / "b") == {step: loss for step, loss in losses(tmp_path / "a").items() if step > 8}
    assert len(ckptgrow.inspect(tmp_path / "b" / "checkpoints" / "last.ckpt").history) == 1


def test_a_new_run_begins_with_the_weights_of_any_checkpoint(tmp_path: Path, data: Path) -> None:
    """The first loss is that of transformers itself with these weights."""
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**cast(Any, CONFIG))).save_pretrained(tmp_path / "small")
    runs: list[dict[int, float]] = []
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", noise=0)
    for name in ("small", "grown"):
        begin = [f"--init-from={tmp_path / name}", "--train-steps=3", "--batch-size=4", f"--out={tmp_path / name}-run"]
        train_here([f"--data={data}", *begin])
        runs.append(losses(Path(f"{tmp_path / name}-run")))
        assert list(runs[-1]) == [1, 2, 3]
    assert runs[0][1] == pytest.approx(runs[1][1], abs=2e-6)
    saved = torch.load(tmp_path / "small-run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert {float(one["step"]) for one in saved["optimizer_states"][0]["state"].values()} == {3.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("schedule", "has a schedule of another trainer's"),
        ("sgd", "another optimizer than AdamW"),
        ("coupled", "coupled weight decay"),
        ("two", "2 optimizers"),
        ("frozen", "frozen, or lost"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused_in_one_line(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**cast(Any, CONFIG)))
    parameters = list(model.parameters())
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(parameters, lr=1e-3)]
    if change == "sgd":
        optimizers = [torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)]
    elif change == "coupled":
        optimizers = [torch.optim.Adam(parameters, lr=1e-3, weight_decay=0.1)]
    elif change == "two":
        optimizers = [torch.optim.AdamW(half, lr=1e-3) for half in (parameters[:9], parameters[9:])]
    elif change == "frozen":
        optimizers = [torch.optim.AdamW(parameters[2:], lr=1e-3)]
    train(model, optimizers[-1], token_batches(1))
    schedulers = [torch.optim.lr_scheduler.LinearLR(optimizers[0])] if change == "schedule" else []
    path = save_lightning(tmp_path / "small.ckpt", model, optimizers, schedulers)
    capsys.readouterr()
    arguments = [f"--data={data}", f"--resume={path}", f"--out={tmp_path / 'out'}", "--train-steps=8"]
    train_here(arguments, expected=2)
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    train_here([*arguments, "--reset=optimizer,schedule"])


@pytest.mark.parametrize("order", ["decay first", "decay last", "one group"])
@pytest.mark.parametrize("operator", ["none", "width", "depth", "mup"])
def test_groups_without_names_are_dealt_as_growth_deals_them(tmp_path: Path, order: str, operator: str) -> None:
    """Every group has the parameters that it had: matrices decay, vectors do not; and the steps are the same."""
    model = perturbed_gpt2()
    matrices = {"params": [one for one in model.parameters() if one.dim() > 1], "weight_decay": 0.1}
    vectors = {"params": [one for one in model.parameters() if one.dim() < 2], "weight_decay": 0.0}
    groups = {"decay first": [matrices, vectors], "decay last": [vectors, matrices]}
    one_group = [{"params": list(model.parameters()), "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups.get(order, one_group), lr=1e-3)
    train(model, optimizer, token_batches(3))
    path = save_lightning(tmp_path / "small.ckpt", model, [optimizer])
    if operator == "depth":
        ckptgrow.depth(path, tmp_path / "grown.ckpt")
    elif operator != "none":
        rule = "mup" if operator == "mup" else "keep"
        ckptgrow.width(path, tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule=rule))
    checkpoint = torch.load(path if operator == "none" else tmp_path / "grown.ckpt", weights_only=True)
    again: Any = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**checkpoint["hyper_parameters"]["config"]))
        .double()
        .eval()
    )
    again.load_state_dict({name.removeprefix("model."): one for name, one in checkpoint["state_dict"].items()})
    found = parameter_groups(again, checkpoint)
    dealt = [(name, one.dim() > 1, group["weight_decay"] > 0) for group in found for name, one in group["params"]]
    assert len(dealt) == len(list(again.parameters()))
    assert all(decays == (is_matrix or order == "one group") for _, is_matrix, decays in dealt), dealt
    resumed = torch.optim.AdamW(found)
    resumed.load_state_dict(checkpoint["optimizer_states"][0])
    batches = token_batches(8, seed=4)
    if operator in ("none", "mup"):
        expected = train(model, optimizer, batches)
        assert train(again, resumed, batches) == pytest.approx(expected, abs=1e-10)
