"""Verification: what passes, what it says in words, and that every kind of tampering is caught and named."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings, StateRequest
from ckptgrow.errors import RequestError
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with AdamW moments, a schedule and a step, float64."""
    path = tmp_path_factory.mktemp("small") / "small.ckpt"
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)
    for tokens in token_batches(5):
        train(model, optimizer, [tokens])
        schedule.step()
    return save_lightning(path, model, [optimizer], [schedule])


@pytest.fixture(scope="module")
def grown(small: Path) -> Path:
    """The small one at twice the width, under mup, without noise."""
    path = small.with_name("grown.ckpt")
    ckptgrow.width(small, path, noise=0, request=StateRequest(lr_rule="mup"))
    return path


def test_an_honest_growth_passes_with_its_trajectory(small: Path, grown: Path) -> None:
    report = ckptgrow.verify(small, grown, settings=Settings(steps=20))
    assert report.passed and report.structure.lr_rule == "mup"
    assert report.function.relative <= 1e-12
    assert report.moments is not None and report.moments.worst_relative_error <= 1e-12
    assert report.moments.gradient_worst_relative_error <= 1e-9
    assert report.trajectory is not None and report.trajectory.judged
    assert report.trajectory.max_abs_loss_diff <= 1e-10 and len(report.trajectory.small) == 21
    assert report.trajectory.small[-1] != report.trajectory.small[0]


def test_growth_without_noise_or_dropout_is_called_trapped_and_passes(small: Path, grown: Path) -> None:
    report = ckptgrow.verify(small, grown)
    assert report.passed and report.asymmetry is not None and report.asymmetry.trapped
    assert any("trapped" in sentence for sentence in report.sentences)


def test_noise_is_seen_in_weights_and_gradients_and_moments_are_still_judged(small: Path, tmp_path: Path) -> None:
    ckptgrow.width(small, tmp_path / "noisy.ckpt", noise=1.0)
    report = ckptgrow.verify(small, tmp_path / "noisy.ckpt", settings=Settings(steps=3))
    assert report.passed and report.asymmetry is not None and report.moments is not None
    assert report.asymmetry.weights > 0.1 and report.asymmetry.gradients > 0.1 and not report.asymmetry.trapped
    assert report.moments.worst_relative_error <= 1e-12 and report.moments.true_gradient_difference > 0.1
    assert report.trajectory is not None and not report.trajectory.judged


def test_dropout_in_the_config_means_not_trapped(tmp_path: Path) -> None:
    source = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2(resid_pdrop=0.1))
    assert not ckptgrow.width(source, tmp_path / "grown.ckpt", separate="none").trapped
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt")
    assert report.asymmetry is not None and report.asymmetry.gradients <= 1e-9 and not report.asymmetry.trapped


def test_kept_learning_rates_are_reported_not_judged(small: Path, tmp_path: Path) -> None:
    ckptgrow.width(small, tmp_path / "kept.ckpt", noise=0)
    report = ckptgrow.verify(small, tmp_path / "kept.ckpt", settings=Settings(steps=5))
    assert report.passed and report.structure.lr_rule == "keep"
    assert report.trajectory is not None and not report.trajectory.judged
    assert report.trajectory.max_abs_loss_diff > 1e-6


def test_stacking_is_told_to_change_the_function(small: Path, tmp_path: Path) -> None:
    ckptgrow.depth(small, tmp_path / "stacked.ckpt", new="copy")
    report = ckptgrow.verify(small, tmp_path / "stacked.ckpt")
    assert not report.passed and not report.function.passed
    assert any("does not preserve the function" in sentence for sentence in report.sentences)


@pytest.mark.parametrize("new", ["zero-output", "zero-norm"])
@pytest.mark.parametrize("place", ["alternate", "append"])
def test_identity_layers_pass(small: Path, tmp_path: Path, place: Any, new: Any) -> None:
    ckptgrow.depth(small, tmp_path / "deep.ckpt", factor=3, place=place, new=new)
    report = ckptgrow.verify(small, tmp_path / "deep.ckpt")
    assert report.passed and report.function.max_abs_logit_diff == 0
    assert [layer.split()[0] for layer in report.structure.layers].count(new) == 4


def test_width_then_depth_then_width_verifies_at_each_stage_and_from_end_to_end(small: Path, tmp_path: Path) -> None:
    stages = [small, *(tmp_path / name for name in ("wide.ckpt", "deep.ckpt", "wider.ckpt"))]
    mup = StateRequest(lr_rule="mup")
    ckptgrow.width(stages[0], stages[1], noise=0, request=mup)
    ckptgrow.depth(stages[1], stages[2])
    ckptgrow.width(stages[2], stages[3], factor=3, noise=1.0, request=mup)
    for before, after in pairwise(stages):
        report = ckptgrow.verify(before, after)
        assert report.passed, report.sentences
    assert ckptgrow.verify(stages[0], stages[3]).passed
    assert [entry["operator"] for entry in ckptgrow.inspect(stages[3]).history] == ["width", "depth", "width"]


def test_moved_steps_pass_where_the_clocks_agree(small: Path, tmp_path: Path) -> None:
    ckptgrow.width(small, tmp_path / "moved.ckpt", noise=0, request=StateRequest(step=3))
    report = ckptgrow.verify(small, tmp_path / "moved.ckpt")
    assert report.passed, report.sentences


def one_block_of_a_weight(tree: Tree) -> str:
    tree["state_dict"]["model.transformer.h.1.mlp.c_fc.weight"][:12, :20] *= 1.001
    return "model.transformer.h.1.mlp.c_fc.weight"


def one_entry_of_a_bias(tree: Tree) -> str:
    tree["state_dict"]["model.transformer.h.0.attn.c_proj.bias"][3] += 1e-6
    return "model.transformer.h.0.attn.c_proj.bias"


def a_weight_that_is_no_number(tree: Tree) -> str:
    tree["state_dict"]["model.transformer.h.1.mlp.c_fc.weight"][5, 7] = float("nan")
    return "model.transformer.h.1.mlp.c_fc.weight"


def a_second_moment_that_is_no_number(tree: Tree) -> str:
    record = next(r for r in tree["optimizer_states"][0]["state"].values() if r["exp_avg_sq"].shape == (24, 40))
    record["exp_avg_sq"][3, 4] = float("nan")
    return "exp_avg_sq of model.transformer.h.0.mlp.c_fc.weight"


def one_block_of_a_first_moment(tree: Tree) -> str:
    record = next(r for r in tree["optimizer_states"][0]["state"].values() if r["exp_avg"].shape == (24, 40))
    record["exp_avg"][12:, 20:] *= 1.0001
    return "exp_avg of model.transformer.h.0.mlp.c_fc.weight"


def one_off_diagonal_block_of_a_second_moment_is_zero(tree: Tree) -> str:
    record = next(r for r in tree["optimizer_states"][0]["state"].values() if r["exp_avg_sq"].shape == (24, 40))
    record["exp_avg_sq"][:12, 20:] = 0.0  # what the released research code writes
    return "exp_avg_sq of model.transformer.h.0.mlp.c_fc.weight"


def one_step(tree: Tree) -> str:
    tree["optimizer_states"][0]["state"][7]["step"] += 1
    return "step of model."


def one_groups_lr(tree: Tree) -> str:
    tree["optimizer_states"][0]["param_groups"][1]["lr"] *= 1.01
    return "lr of group 1"


def one_groups_epsilon(tree: Tree) -> str:
    tree["optimizer_states"][0]["param_groups"][1]["eps"] *= 2
    return "eps of group 1"


def one_groups_weight_decay(tree: Tree) -> str:
    tree["optimizer_states"][0]["param_groups"][2]["weight_decay"] = 0.1
    return "weight_decay of group 2"


def one_base_lr(tree: Tree) -> str:
    tree["lr_schedulers"][0]["base_lrs"][0] *= 2
    return "base_lrs"


def the_schedules_clock(tree: Tree) -> str:
    tree["lr_schedulers"][0]["last_epoch"] += 1
    return "last_epoch"


def the_data_position(tree: Tree) -> str:
    tree["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] += 1
    return "data position"


def one_record_is_gone(tree: Tree) -> str:
    del tree["optimizer_states"][0]["state"][4]
    return "holds nothing"


@pytest.mark.parametrize(
    "tamper",
    [
        one_block_of_a_weight,
        one_entry_of_a_bias,
        a_weight_that_is_no_number,
        a_second_moment_that_is_no_number,
        one_block_of_a_first_moment,
        one_off_diagonal_block_of_a_second_moment_is_zero,
        one_step,
        one_groups_lr,
        one_groups_epsilon,
        one_groups_weight_decay,
        one_base_lr,
        the_schedules_clock,
        the_data_position,
        one_record_is_gone,
    ],
    ids=lambda tamper: tamper.__name__,
)
def test_tampering_is_caught_and_named(small: Path, grown: Path, tmp_path: Path, tamper: Callable[[Tree], str]) -> None:
    tree = torch.load(grown, weights_only=True)
    named = tamper(tree)
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(small, tmp_path / "tampered.ckpt")
    assert not report.passed
    assert any(named in sentence for sentence in report.sentences), report.sentences


def test_swapped_arguments_are_refused(small: Path, grown: Path) -> None:
    with pytest.raises(RequestError, match="small checkpoint first"):
        ckptgrow.verify(grown, small)


@pytest.mark.parametrize("kind", ["npy", "bin", "txt"])
def test_sample_tokens_may_come_from_a_file(small: Path, grown: Path, tmp_path: Path, kind: str) -> None:
    import numpy as np

    ids = torch.cat(token_batches(8)).flatten().numpy()
    path = tmp_path / f"tokens.{kind}"
    if kind == "npy":
        np.save(path, ids)
    elif kind == "bin":
        ids.astype(np.uint16).tofile(path)
    else:
        path.write_text(" ".join(map(str, ids)))
    assert ckptgrow.verify(small, grown, settings=Settings(tokens=path)).passed


def test_a_checkpoint_is_not_judged_beside_itself(small: Path, grown: Path) -> None:
    for path in (small, grown):
        with pytest.raises(RequestError, match="is the small checkpoint itself"):
            ckptgrow.verify(path, path)


def test_steps_at_a_rate_of_zero_are_not_judged(tmp_path: Path, small: Path) -> None:
    tree: Tree = torch.load(small, weights_only=True)
    for group in tree["optimizer_states"][0]["param_groups"]:
        group["lr"] = 0.0
    torch.save(tree, tmp_path / "still.ckpt")
    ckptgrow.width(tmp_path / "still.ckpt", tmp_path / "grown.ckpt", noise=0, request=StateRequest(lr_rule="mup"))
    report = ckptgrow.verify(tmp_path / "still.ckpt", tmp_path / "grown.ckpt", settings=Settings(steps=3))
    assert report.trajectory is not None and not report.trajectory.judged
    assert report.trajectory.why == "the learning rates are 0, so nothing moves"
