"""What a trainer has apart and transformers as one tensor: experts, gate and up; moments and averages follow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.dialects.dialect import Row
from ckptgrow.dialects.dialect_files import read_dialect
from ckptgrow.dialects.forms import Form
from ckptgrow.errors import CkptgrowError
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.state.translation import in_transformers_terms
from ckptgrow.storage.tensors import InMemory, Made, whole
from tests.helpers.own_dialect import MINE, written
from tests.helpers.trainer_files import SAMPLES

MIXTRAL = SAMPLES["litgpt-mixtral"]
THEIR, OUR = "transformer.h.1.mlp.experts.", "model.layers.1.mlp.experts."


def lit_state(path: Path) -> dict[str, Any]:
    return torch.load(path / "lit_model.pth", weights_only=True)


def changed(target: Path, change: Any) -> Path:
    shutil.copytree(MIXTRAL, target)
    state = lit_state(target)
    change(state)
    torch.save(state, target / "lit_model.pth")
    return target


def by_hand(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Transformers' two tensors of layer 1."""
    gates_ups = [torch.cat([tensors[f"{THEIR}{at}.fc_{part}.weight"] for part in (1, 2)]) for at in range(4)]
    downs = [tensors[f"{THEIR}{at}.proj.weight"] for at in range(4)]
    return {"gate_up_proj": torch.stack(gates_ups), "down_proj": torch.stack(downs)}


def test_weights_and_moments_of_experts_are_stacked() -> None:
    state = lit_state(MIXTRAL)
    records = state["optimizer"]["state"]
    moments = {name: records[number]["exp_avg_sq"] for number, name in enumerate(state["model"])}
    there, _ = in_transformers_terms(read_checkpoint(MIXTRAL))
    (group,) = there.optimizers[0].groups
    assert group.names is not None and len(group.names) == len(set(group.names)) == 3 + 2 * 9
    for name, expected in by_hand(state["model"]).items():
        assert torch.equal(whole(there.tensors[OUR + name]), expected)
    for name, expected in by_hand(moments).items():
        record = there.optimizers[0].records[group.keys[group.names.index(OUR + name)]]
        assert torch.equal(whole(record["exp_avg_sq"]), expected) and float(whole(record["step"])) == 5


def test_a_grown_file_has_its_tensors_in_the_order_of_the_trainers_module(tmp_path: Path) -> None:
    """By which the trainer numbers its optimizer's parameters: expert after expert, three matrices each."""
    ckptgrow.width(MIXTRAL, tmp_path / "a", factor=2)
    ckptgrow.depth(tmp_path / "a", tmp_path / "b", factor=2)
    old, new = lit_state(MIXTRAL), lit_state(tmp_path / "b")
    layer = [name.partition(".h.0.")[2] for name in old["model"] if ".h.0." in name]
    expected = [f"transformer.h.{index}.{name}" for index in range(4) for name in layer]
    assert list(new["model"]) == ["lm_head.weight", "transformer.wte.weight", *expected, "transformer.ln_f.weight"]
    shapes = [tensor.shape for tensor in new["model"].values()]
    assert [record["exp_avg"].shape for record in new["optimizer"]["state"].values()] == shapes


def test_more_experts_are_more_tensors_of_the_trainers(tmp_path: Path) -> None:
    ckptgrow.experts(MIXTRAL, tmp_path / "a", experts=8)
    assert ckptgrow.verify(MIXTRAL, tmp_path / "a").passed
    new = lit_state(tmp_path / "a")
    assert f"{THEIR}7.proj.weight" in new["model"] and len(new["optimizer"]["state"]) == len(new["model"])
    assert "n_expert: 8" in (tmp_path / "a" / "model_config.yaml").read_text()


def test_an_average_of_the_weights_is_taken_apart_too(tmp_path: Path) -> None:
    def with_average(state: dict[str, Any]) -> None:
        state["model"] |= {f"average.{name}": tensor * 0.5 for name, tensor in state["model"].items()}

    source = changed(tmp_path / "a", with_average)
    ckptgrow.depth(source, tmp_path / "b", factor=2)
    assert ckptgrow.verify(source, tmp_path / "b").passed
    old, new = lit_state(source)["model"], lit_state(tmp_path / "b")["model"]
    for name in ("1.fc_1.weight", "3.fc_2.weight", "2.proj.weight"):
        assert torch.equal(new[f"average.transformer.h.2.mlp.experts.{name}"], old[f"average.{THEIR}{name}"])


def without_record(state: dict[str, Any]) -> None:
    del state["optimizer"]["state"][list(state["model"]).index(f"{THEIR}2.fc_1.weight")]


def of_other_step(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][list(state["model"]).index(f"{THEIR}2.fc_1.weight")]["step"] += 1


def in_two_groups(state: dict[str, Any]) -> None:
    optimizer = state["optimizer"]
    cut = list(state["model"]).index(f"{THEIR}2.fc_1.weight")
    group, numbers = optimizer["param_groups"][0], optimizer["param_groups"][0]["params"]
    optimizer["param_groups"] = [{**group, "params": numbers[:cut]}, {**group, "params": numbers[cut:]}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_record, "7 of .* have records, expected all or none"),
        (of_other_step, "step differs between the parts of one tensor"),
        (in_two_groups, "in a group without all of their tensor"),
    ],
)
def test_moments_that_cannot_be_one_tensors_are_refused(tmp_path: Path, change: Any, reason: str) -> None:
    source = changed(tmp_path / "a", change)
    with pytest.raises(CkptgrowError, match=reason):
        ckptgrow.width(source, tmp_path / "b", factor=2)
    assert not (tmp_path / "b").exists()


def test_a_grown_expert_is_made_once_for_all_of_its_tensors() -> None:
    made: list[int] = []

    def rows(start: int, stop: int) -> torch.Tensor:
        made.extend(range(start, stop))
        return torch.arange(start * 48, stop * 48, dtype=torch.float32).reshape(-1, 8, 6)

    row = Row(("{expert}.gate", "{expert}.up"), "gate_up", how="experts join")
    parts = Form(row, ((3, 8, 6),), {"experts": 3, "layers": 1}).theirs([Made((3, 8, 6), torch.float32, rows)])
    found = [torch.cat([part.rows(at, at + 1) for at in range(4)]) for part in parts]
    assert torch.equal(torch.cat(found), torch.arange(144, dtype=torch.float32).reshape(-1, 6))
    assert made == [0, 1, 2]


def test_a_trainers_queries_keys_and_values_may_be_one_tensor_of_transformers() -> None:
    """Phi-3 has them so, in as many rows as there are heads of each; transposed, as gpt-oss has its experts."""
    row = Row(("heads: q", "kv_heads: k", "kv_heads: v"), "qkv", how="join")
    sizes = {"heads": 4, "kv_heads": 2, "head": 3, "layers": 1}
    qkv = torch.arange(24 * 5, dtype=torch.float32).reshape(24, 5)
    form = Form(row, ((24, 5),), sizes)
    assert form.shapes_of_theirs == ((12, 5), (6, 5), (6, 5))
    parts = form.theirs([InMemory(qkv)])
    for part, expected in zip(parts, qkv.split([12, 6, 6]), strict=True):
        assert torch.equal(whole(part), expected)
    assert torch.equal(whole(form.ours(parts)[0]), qkv)
    turned = Form(Row(("g", "u"), "gu", how="join transpose"), ((5, 8),), sizes)
    assert turned.shapes_of_theirs == ((4, 5), (4, 5))
    joined = turned.ours([InMemory(one) for one in qkv[:8].split(4)])[0]
    assert torch.equal(whole(joined), qkv[:8].t())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"theirs": ["a.{layer}", "b.{layer}"], "ours": "c.{layer}"}, "has 2 of theirs, expected several with join"),
        ({"theirs": "a.{layer}.{expert}", "ours": "c.{layer}"}, "expected experts where theirs have {expert}"),
        ({"theirs": ["a", "b"], "ours": ["c", "d"], "how": "join"}, "expected one of ours"),
        ({"theirs": ["ffn: a", "heads: b"], "ours": "c", "how": "join"}, "says the rows of ffn, expected heads"),
        ({"theirs": ["a", 3], "ours": "c", "how": "join"}, "theirs is not a list of names"),
    ],
)
def test_what_is_wrong_in_a_users_row_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(CkptgrowError, match=reason.replace("{", r"\{")):
        read_dialect(Path(written(tmp_path / "mine.yaml", {**MINE, "rows": [row]})))
