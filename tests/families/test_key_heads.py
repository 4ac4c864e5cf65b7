"""Key and value heads multiplied alone, or kept while the rest grows; and sizes beside a factor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow import Settings
from ckptgrow.errors import RequestError
from tests.helpers.families import CASES, batches, loaded, perturbed, still, still_run, trained
from tests.helpers.family_checks import check_function, check_moments, check_verified, slow_but

Tree = dict[str, Any]
# no width; a norm over all heads; not to four
ALSO_GROUPED = ("olmo tied", "olmo2", "olmo3", "olmoe", "minimax_m2", "flex_olmo", "llama with six heads")
HEAD = 4  # narrower than any matrix
GROUPED = [
    case for case, (_, fields) in CASES.items() if fields.get("num_key_value_heads") == 2 and case not in ALSO_GROUPED
]


def key_rows(name: str, num_rows: int) -> slice | None:
    """Which rows of a tensor keys and values have, None for a tensor that has none."""
    if "qkv_proj" in name:
        return slice(16, num_rows)
    return slice(0, num_rows) if any(part in name for part in ("k_proj", "v_proj", "k_norm")) else None


def flat(record: Tree) -> Tree:
    """A record's tensors, those of norms with a gain a head and coordinate with both in one axis."""
    return {key: one.flatten() if one.dim() == 2 and one.shape[1] == HEAD else one for key, one in record.items()}


@pytest.mark.parametrize("case", slow_but(GROUPED, ("llama", "phi3")))
def test_key_heads_alone_are_exact_told_apart_and_share_the_moments(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    done = ckptgrow.width(source, tmp_path / "grown.ckpt", kv_heads=4)
    assert not done.trapped and done.record["separate"] == "none"
    grown = check_function(small, tmp_path / "grown.ckpt")
    assert (grown.config.num_attention_heads, grown.config.num_key_value_heads) == (4, 4)
    head = getattr(grown.config, "head_dim", None) or 4
    stored = loaded(tmp_path / "grown.ckpt")[1]["optimizer_states"][0]["state"]
    old = loaded(source)[1]["optimizer_states"][0]["state"]
    real = still(grown.parameters())
    trained(grown, real, batches(5))
    floor = max(float(one["exp_avg"].abs().max()) for one in real.state.values()) * 1e-6
    apart = 0
    for index, (name, parameter) in enumerate(grown.named_parameters()):
        if not parameter.requires_grad:
            assert index not in stored
            continue
        found, expected = flat(stored[index]), flat(real.state[parameter])
        rows = key_rows(name, len(expected["exp_avg"]))
        if rows is None or parameter.shape == small.get_parameter(name).shape:
            for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
                limit = 1e-9 * max(float(expected[key].abs().max()), floor**power)
                assert float((found[key] - expected[key]).abs().max()) <= limit, (name, key)
            continue
        # [key or value head, copy, inside]: the copies' own first moments sum to the old one, which the stored share
        sums = [one["exp_avg"][rows].unflatten(0, (-1, 2, head)).sum(1) for one in (found, expected)]
        limit = 1e-9 * max(float(sums[1].abs().max()), floor)
        assert float((sums[0] - sums[1]).abs().max()) <= limit, name
        copies = expected["exp_avg"][rows].unflatten(0, (-1, 2, head)).unbind(1)
        apart += float((copies[0] - copies[1]).norm()) > 0.1 * float(copies[0].norm()) > floor
        squares = found["exp_avg_sq"][rows].unflatten(0, (-1, 2, head))
        source_rows = flat(old[index])["exp_avg_sq"][rows.start :].unflatten(0, (-1, head))
        torch.testing.assert_close(squares, (source_rows / 2).unsqueeze(1).expand_as(squares), rtol=1e-12, atol=0)
    assert apart >= 2
    report = ckptgrow.verify(source, tmp_path / "grown.ckpt", settings=Settings(batches=1, steps=2))
    assert report.passed, report.sentences
    assert report.asymmetry is not None and not report.asymmetry.trapped
    assert report.trajectory is not None and "serve different queries" in report.trajectory.why


def squares_of_equal_copies(tree: Tree) -> str:
    names = [name for name in tree["state_dict"] if not name.endswith("bias")]
    number = names.index("model.model.layers.0.self_attn.v_proj.weight")
    tree["optimizer_states"][0]["state"][number]["exp_avg_sq"].div_(2)
    return "exp_avg_sq of model.model.layers.0.self_attn.v_proj.weight"


def cyclic_copies(tree: Tree) -> str:
    weight = tree["state_dict"]["model.model.layers.0.self_attn.k_proj.weight"]
    weight[4:8], weight[8:12] = weight[8:12].clone(), weight[4:8].clone()
    return "k_proj.weight: the weight differs"


def another_number(tree: Tree) -> str:
    tree["ckptgrow"]["history"][-1]["kv_heads"] = 2
    return "the size of kv_heads is 4, expected 2 by the history"


@pytest.mark.parametrize(
    "tamper", [squares_of_equal_copies, cyclic_copies, another_number], ids=lambda one: one.__name__
)
def test_a_mistake_in_key_heads_alone_is_named(tmp_path: Path, tamper: Callable[[Tree], str]) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama")
    ckptgrow.width(source, tmp_path / "grown.ckpt", kv_heads=4)
    tree = torch.load(tmp_path / "grown.ckpt", weights_only=True)
    named = tamper(tree)
    torch.save(tree, tmp_path / "tampered.ckpt")
    report = ckptgrow.verify(source, tmp_path / "tampered.ckpt", settings=Settings(batches=1))
    assert not report.passed and any(named in one for one in report.sentences), report.sentences


KEPT: dict[str, dict[str, Any]] = {
    "llama": {"kv_heads": 2},
    "llama of one key head": {"kv_heads": 1},
    "gpt2": {"ffn": 20},
    "llama tied": {"ffn": 80, "kv_heads": 2},
    "gemma2": {"ffn": 20},
    "mixtral": {"kv_heads": 2, "ffn": 33},
    "phi3": {"kv_heads": 2},
    "qwen3_moe": {"ffn": 20},
    "t5": {"ffn": 20},
    "llama long heads": {"heads": 16, "kv_heads": 2},
}


@pytest.mark.parametrize("case", slow_but(list(KEPT), ("llama of one key head", "gpt2", "llama tied")))
def test_beside_a_factor_single_spaces_have_sizes_of_their_own(tmp_path: Path, case: str) -> None:
    small = perturbed(case)
    source = still_run(tmp_path / "small.ckpt", case)
    done = ckptgrow.width(source, tmp_path / "grown.ckpt", factor=2, noise=0, **KEPT[case])
    assert done.new["residual"] == 2 * done.old["residual"]
    sizes = done.record["sizes"]
    assert all(sizes[space] == size for space, size in KEPT[case].items())
    check_function(small, tmp_path / "grown.ckpt")
    check_moments(tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")
    ckptgrow.width(source, tmp_path / "split.ckpt", factor=2, **KEPT[case])
    check_function(small, tmp_path / "split.ckpt")
    check_verified(source, tmp_path / "split.ckpt")


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"factor": 2, "hidden": 24}, "exclude each other"),
        ({"factor": 2, "ffn": 19}, "at least the old size, 20"),
        ({"factor": 2, "kv_heads": 8}, "grow the key heads first"),
        ({"kv_heads": 4, "separate": "split"}, "serve different queries"),
        ({"kv_heads": 4, "noise": 1.0}, "serve different queries"),
        ({"kv_heads": 4, "spread": 1.0}, "leave it out"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(tmp_path: Path, sizes: dict[str, Any], reason: str) -> None:
    source = still_run(tmp_path / "small.ckpt", "llama")
    with pytest.raises(RequestError, match=reason):
        ckptgrow.width(source, tmp_path / "grown.ckpt", **sizes)
