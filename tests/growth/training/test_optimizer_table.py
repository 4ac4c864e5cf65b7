"""What the table of optimizers refuses, and the corners of its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.optimization import Adafactor as HfAdafactor

import ckptgrow
from ckptgrow.errors import CkptgrowError, OptimizerError
from ckptgrow.growth.request import StateRequest
from tests.helpers.gpt2 import largest_logit_difference, perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import Edit, edited, load_model, save_lightning
from tests.helpers.optimizers import ALL, CASES, resumed, stored, tiny_gpt2
from tests.helpers.state_requests import MUP


def checkpoint(tmp_path: Path, build: Any, num_steps: int = 4, **model: Any) -> tuple[Any, Any, Path]:
    small = perturbed_gpt2(**model) if model else tiny_gpt2()
    optimizer = build(small.parameters())
    train(small, optimizer, token_batches(num_steps))
    return small, optimizer, save_lightning(tmp_path / "small.ckpt", small, [optimizer], global_step=num_steps)


def without(option: str) -> Edit:
    return lambda tree: [group.pop(option) for group in tree["optimizer_states"][0]["param_groups"]]


def test_unknown_entries_are_refused_by_name(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path, torch.optim.AdamW)
    edited(
        source,
        lambda tree: tree["optimizer_states"][0]["state"][4].update(
            exp_avg_diff=torch.zeros(6, 18, dtype=torch.float64)
        ),
    )
    with pytest.raises(OptimizerError, match=r'exp_avg_diff.*reset=\("optimizer"'):
        ckptgrow.width(source, tmp_path / "grown.ckpt")
    assert not (tmp_path / "grown.ckpt").exists()


def test_unknown_options_are_refused_with_those_that_are_known(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path, torch.optim.Rprop)
    with pytest.raises(OptimizerError, match=r"etas, .*expected one of Adafactor.*SGD"):
        ckptgrow.width(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        (
            "Adam, coupled decay",
            "diagonal",
            r'Adam with weight decay in the gradient.*how="tile" separate="none"',
        ),
        ("Adamax, coupled decay", "diagonal", r'Adamax with weight decay in the gradient.*lr_rule="keep"'),
        ("relative", "diagonal", r'relative_step.*how="tile" separate="none"'),
        ("averages", "tile", r"""no lr rule known for an optimizer with Adam's averages.*lr_rule="keep"""),
    ],
)
def test_mup_says_where_it_has_no_exact_rule(tmp_path: Path, name: str, how: Any, message: str) -> None:
    def build(parameters: Any) -> torch.optim.Optimizer:
        if name == "relative":
            return HfAdafactor(parameters, lr=None)
        return CASES["Adam" if name == "averages" else name].build(parameters, 1e-3)

    _, _, source = checkpoint(tmp_path, build)
    if name == "averages":
        edited(source, without("amsgrad"))
        edited(source, without("capturable"))
        edited(source, without("decoupled_weight_decay"))
    with pytest.raises(CkptgrowError, match=message):
        ckptgrow.width(source, tmp_path / "grown.ckpt", how=how, noise=0, request=MUP)
    ckptgrow.width(source, tmp_path / "grown.ckpt", how=how, noise=0)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


def test_relative_steps_keep_the_trajectory_where_weights_are_tiled(tmp_path: Path) -> None:
    def build(parameters: Any, lr: Any = None) -> torch.optim.Optimizer:
        return HfAdafactor(parameters, lr=None, eps=(1e-20, 1e-3))

    small, optimizer, source = checkpoint(tmp_path, build)
    ckptgrow.width(source, tmp_path / "grown.ckpt", how="tile", noise=0, request=MUP)
    grown, _ = load_model(tmp_path / "grown.ckpt")
    (state,) = stored(tmp_path / "grown.ckpt")
    batches = token_batches(20, seed=3)
    losses = train(small, optimizer, batches), train(grown, resumed(grown, state, build, 0.0), batches)
    assert max(abs(one - other) for one, other in zip(*losses, strict=True)) <= 1e-10


def test_factors_of_uneven_copies_have_the_grown_product_and_both_the_same_mean(tmp_path: Path) -> None:
    small, _, source = checkpoint(tmp_path, lambda parameters: torch.optim.Adafactor(parameters, lr=1e-3))
    ckptgrow.width(source, tmp_path / "grown.ckpt", ffn=17, noise=0)
    old, new = (stored(path)[0]["state"] for path in (source, tmp_path / "grown.ckpt"))
    for index, (name, _) in enumerate(small.named_parameters()):
        if "mlp" not in name or not name.endswith("weight"):
            continue
        before, after = (
            one[index]["row_var"] @ one[index]["col_var"] / one[index]["row_var"].mean() for one in (old, new)
        )
        copies = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6])
        shares = torch.tensor([0.5 if unit < 7 else 1.0 for unit in copies], dtype=torch.float64)
        # c_fc writes the units, so its gradient is split among copies; c_proj reads each copy's whole activation
        expected = before[:, copies] * shares**2 if "c_fc" in name else before[copies]
        assert torch.allclose(after, expected, rtol=1e-12, atol=0)
        means = new[index]["row_var"].mean(), new[index]["col_var"].mean()
        assert float(means[0]) == pytest.approx(float(means[1]), rel=1e-12)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt")
    assert report.passed, report.sentences


def test_old_transformers_adamw_with_int_steps_grows_and_keeps_them_ints(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path, lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))

    def as_transformers_wrote(tree: Any) -> None:
        (state,) = tree["optimizer_states"]
        for record in state["state"].values():
            record["step"] = int(record["step"])
        keys = ("lr", "betas", "eps", "weight_decay", "params")
        state["param_groups"] = [
            {**{key: group[key] for key in keys}, "correct_bias": True} for group in state["param_groups"]
        ]

    edited(source, as_transformers_wrote)
    ckptgrow.width(source, tmp_path / "grown.ckpt", how="tile", noise=0, request=MUP)
    assert all(type(record["step"]) is int for record in stored(tmp_path / "grown.ckpt")[0]["state"].values())
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=ckptgrow.Settings(batches=2, steps=4))
    assert report.passed and report.trajectory is not None and report.trajectory.judged, report.sentences


def test_tensor_learning_rates_stay_tensors(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path, lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))

    def as_capturable(tree: Any) -> None:
        for group in tree["optimizer_states"][0]["param_groups"]:
            group.update(lr=torch.tensor(1e-3, dtype=torch.float64), capturable=True)

    edited(source, as_capturable)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=MUP)
    rates = [group["lr"] for group in stored(tmp_path / "grown.ckpt")[0]["param_groups"]]
    assert sorted({float(rate) for rate in rates}) == pytest.approx([5e-4, 1e-3])
    assert all(isinstance(rate, torch.Tensor) and rate.dtype == torch.float64 for rate in rates)
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=ckptgrow.Settings(batches=2, steps=4))
    assert report.passed and report.trajectory is not None and report.trajectory.judged, report.sentences


@pytest.mark.parametrize("name", ALL)
def test_new_layers_begin_with_records_of_nothing(tmp_path: Path, name: str) -> None:
    small, _, source = checkpoint(tmp_path, lambda parameters: CASES[name].build(parameters, 1e-3))
    ckptgrow.depth(source, tmp_path / "grown.ckpt", place="append")
    grown, _ = load_model(tmp_path / "grown.ckpt")
    assert largest_logit_difference(small, grown) == 0
    old, new = (stored(path)[0] for path in (source, tmp_path / "grown.ckpt"))
    names = [name for name, _ in grown.named_parameters()]
    old_names = [name for name, _ in small.named_parameters()]
    for index, parameter in enumerate(names):
        record = new["state"].get(index, {})
        if ".h.1." in parameter:
            for key, value in record.items():
                if key == "mu_product":
                    assert float(value) == 1
                elif key != "RMS":
                    assert not bool(torch.as_tensor(value).any()), (parameter, key)
        else:
            source_record = old["state"].get(old_names.index(parameter), {})
            for key, value in source_record.items():
                both = zip(value, record[key], strict=True) if isinstance(value, list) else [(value, record[key])]
                assert all(bool((torch.as_tensor(one) == torch.as_tensor(other)).all()) for one, other in both)
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


def test_a_moved_step_takes_the_product_of_momenta_along(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path, torch.optim.NAdam, num_steps=6)
    ckptgrow.width(source, tmp_path / "grown.ckpt", noise=0, request=StateRequest(step=3))
    record = stored(tmp_path / "grown.ckpt")[0]["state"][0]
    early = tiny_gpt2()
    twin = torch.optim.NAdam(early.parameters())
    train(early, twin, token_batches(3))
    assert float(record["step"]) == 3
    assert float(record["mu_product"]) == pytest.approx(float(twin.state[next(early.parameters())]["mu_product"]))
    assert ckptgrow.verify(source, tmp_path / "grown.ckpt").passed


def test_entries_of_no_parameters_shape_are_named_too(tmp_path: Path) -> None:
    _, _, source = checkpoint(tmp_path, torch.optim.AdamW)
    edited(source, lambda tree: tree["optimizer_states"][0]["state"][4].update(preconditioner=torch.zeros(5, 5)))
    with pytest.raises(OptimizerError, match="preconditioner have no parameter's shape"):
        ckptgrow.width(source, tmp_path / "grown.ckpt")


def test_averaged_weights_in_the_state_dict_get_the_same_noise_and_keep_their_function(tmp_path: Path) -> None:
    small, average = tiny_gpt2(), tiny_gpt2()
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.7).add_(0.05)  # of another size than the weights that it follows
    tensors = {f"model.{name}": tensor for name, tensor in small.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in average.state_dict().items()}
    source = save_lightning(tmp_path / "small.ckpt", small, state_dict=tensors)
    differences: list[dict[str, torch.Tensor]] = []
    for noise in (0.0, 1.0):
        target = tmp_path / f"grown-{noise}.ckpt"
        ckptgrow.width(source, target, noise=noise)
        tree = torch.load(target, weights_only=True)
        grown = GPT2LMHeadModel(GPT2Config(**tree["hyper_parameters"]["config"])).double().eval()
        grown.load_state_dict({name: tree["state_dict"][f"ema.{name}"] for name in small.state_dict()})
        assert largest_logit_difference(average, grown) <= 1e-12
        names = small.state_dict()
        differences.append(
            {name: tree["state_dict"][f"ema.{name}"] - tree["state_dict"][f"model.{name}"] for name in names}
        )
    exact, noisy = differences
    for name, difference in exact.items():
        assert float((noisy[name] - difference).abs().max()) <= 1e-12
