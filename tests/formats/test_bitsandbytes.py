"""bitsandbytes' averages: in 32 bits the same numbers as torch's, under other words; in 8 bits by its own codes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.errors import OptimizerError
from ckptgrow.formats.known_formats import read_checkpoint, write_checkpoint
from ckptgrow.progress import silent
from ckptgrow.state.opening import open_state
from ckptgrow.storage.code_blocks import CodeMap, InBlocks, in_blocks
from ckptgrow.storage.tensors import InMemory, whole
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import assert_same, state_of, trained_checkpoint
from tests.helpers.trainer_files import TRAINERS

SAMPLES = TRAINERS / "bitsandbytes"
NAMES = ("AdamW8bit", "Lion8bit", "SGD8bit", "RMSprop8bit", "Adagrad8bit")
WORDS = {"exp_avg": "state1", "exp_avg_sq": "state2"}
OPTIONS = {"alpha": 0.0, "t_alpha": None, "t_beta3": None}  # of every group of bitsandbytes' with two averages


def as_bitsandbytes(optimizer: dict[str, Any]) -> dict[str, Any]:
    """A state of torch's AdamW as bitsandbytes 0.50 writes it for tensors that it keeps in 32 bits."""
    records = {
        key: {
            "step": int(record["step"]),
            "__bnb_optimizer_quant_state__": {own: record[word] for word, own in WORDS.items()},
        }
        for key, record in optimizer["state"].items()
    }
    kept = ("lr", "betas", "eps", "weight_decay", "params")
    groups = [{**{key: group[key] for key in kept}, **OPTIONS} for group in optimizer["param_groups"]]
    return {"state": records, "param_groups": groups}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint with torch's AdamW, and the same one with bitsandbytes'."""
    source = trained_checkpoint(tmp_path / "torch.ckpt", perturbed_gpt2())
    tree = torch.load(source, weights_only=True)
    tree["optimizer_states"] = [as_bitsandbytes(one) for one in tree["optimizer_states"]]
    torch.save(tree, tmp_path / "bnb.ckpt")
    return source, tmp_path / "bnb.ckpt"


@pytest.mark.parametrize("operator", ["width", "depth"])
def test_averages_grow_as_torchs_do(pair: tuple[Path, Path], operator: str) -> None:
    grown = [path.with_name(f"grown-{path.name}") for path in pair]
    for source, target in zip(pair, grown, strict=True):
        getattr(ckptgrow, operator)(source, target, factor=2)
    of_torch, of_bitsandbytes = (state_of(path)["optimizers"][0] for path in grown)
    assert_same(as_bitsandbytes(of_torch)["state"], of_bitsandbytes["state"])
    assert ckptgrow.verify(pair[1], grown[1]).passed


def test_what_is_read_is_written_again(pair: tuple[Path, Path], tmp_path: Path) -> None:
    write_checkpoint(read_checkpoint(pair[1]), tmp_path / "again.ckpt", silent, force=False)
    assert_same(state_of(pair[1])["optimizers"], state_of(tmp_path / "again.ckpt")["optimizers"])


def test_a_record_in_8_bits_without_scales_of_blocks_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """As versions before 0.36 wrote them, with one scale for a whole tensor."""
    tree = torch.load(pair[1], weights_only=True)
    inner = tree["optimizer_states"][0]["state"][3]["__bnb_optimizer_quant_state__"]
    inner |= {"state1": inner["state1"].to(torch.uint8), "qmap1": torch.zeros(256), "max1": torch.zeros(1)}
    torch.save(tree, tmp_path / "mixed.ckpt")
    with pytest.raises(OptimizerError, match="in 8 bits by blocks of 256 or 2,048"):
        ckptgrow.width(tmp_path / "mixed.ckpt", tmp_path / "out.ckpt")
    assert not (tmp_path / "out.ckpt").exists()


def stored_in(path: Path) -> dict[str, Any]:
    return torch.load(path / "optimizer.pt", weights_only=True)


def inner_of(path: Path, name: str) -> dict[str, torch.Tensor]:
    """What bitsandbytes has of a parameter, by transformers' name without its layer."""
    state = open_state(path)
    number = next(at for at, one in enumerate(state.optimizers[0].names) if one.endswith(name))
    return stored_in(path)["state"][number]["__bnb_optimizer_quant_state__"]


def test_states_in_8_bits_are_read_as_bitsandbytes_reads_them() -> None:
    expected = torch.load(SAMPLES / "read_by_bitsandbytes.pt", weights_only=True)["AdamW8bit"]
    (raw,) = read_checkpoint(SAMPLES / "AdamW8bit").optimizers
    num_in_codes = 0
    for number, states in expected.items():
        for own, one in states.items():
            assert torch.equal(whole(raw.records[number][{"state1": "exp_avg", "state2": "exp_avg_sq"}[own]]), one)
            num_in_codes += 1
    assert num_in_codes == 2 * 8  # all matrices


@pytest.mark.parametrize("block", [256, 2048])
@pytest.mark.parametrize("is_signed", [True, False])
def test_no_code_is_farther_from_its_number_than_bitsandbytes_own(block: int, is_signed: bool) -> None:
    """Its kernel for CPUs looks codes up in a table, and misses the nearest one now and then."""
    stored = torch.load(SAMPLES / "read_by_bitsandbytes.pt", weights_only=True)[f"{block} {is_signed}"]
    numbers, code_map = stored["numbers"], CodeMap(InMemory(stored["map"]), block)
    found = in_blocks(InMemory(numbers), code_map)
    theirs = InBlocks(InMemory(stored["codes"]), InMemory(stored["scales"]), code_map)
    assert torch.equal(whole(found.scales), stored["scales"])
    errors, expected = ((whole(one) - numbers).abs() for one in (found, theirs))
    assert (errors <= expected * (1 + 1e-5)).all()  # a middle between two codes may go to either
    assert (errors <= whole(found.roundings) * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_in_8_bits_is_written_again_to_the_bit(tmp_path: Path, name: str) -> None:
    write_checkpoint(read_checkpoint(SAMPLES / name), tmp_path / "a", silent, force=False)
    assert_same(stored_in(SAMPLES / name), stored_in(tmp_path / "a"))
    ckptgrow.convert(SAMPLES / name, tmp_path / "b.ckpt", "lightning")
    ckptgrow.convert(tmp_path / "b.ckpt", tmp_path / "c", "huggingface")
    assert_same(stored_in(SAMPLES / name)["state"], stored_in(tmp_path / "c")["state"])


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("operator", "options"),
    [
        ("width", {}),
        ("width", {"how": "tile"}),
        ("width", {"how": "pad", "request": ckptgrow.StateRequest(fresh_moments="mean")}),
        ("width", {"request": ckptgrow.StateRequest(lr_rule="mup")}),
        ("depth", {}),
        ("depth", {"new": "copy"}),
    ],
)
def test_states_in_8_bits_grow_and_are_judged(
    tmp_path: Path, name: str, operator: str, options: dict[str, Any]
) -> None:
    grown = getattr(ckptgrow, operator)(SAMPLES / name, tmp_path / "a", factor=2, **options)
    assert sum("moments in 8 bits are exact in blocks" in note for note in grown.notes) == 1
    report = ckptgrow.verify(SAMPLES / name, tmp_path / "a")
    assert report.moments is not None and report.moments.passed, report.sentences
    assert report.passed or options.get("new") == "copy"  # copied layers change the function
    small, large = (
        Counter(map(dtypes, stored_in(path)["state"].values())) for path in (SAMPLES / name, tmp_path / "a")
    )
    assert small == large if operator == "width" else small <= large


def dtypes(record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, str(one.dtype)) for key, one in record["__bnb_optimizer_quant_state__"].items()))


def test_rows_of_whole_blocks_keep_their_codes(tmp_path: Path) -> None:
    """A row of 256 becomes two: the same codes, under scales times the gradient's factor, a power of two."""
    ckptgrow.width(SAMPLES / "AdamW8bit", tmp_path / "a", factor=2)
    for name in ("q_proj.weight", "up_proj.weight", "embed_tokens.weight"):
        old, new = (inner_of(path, name) for path in (SAMPLES / "AdamW8bit", tmp_path / "a"))
        for which in "12":
            codes, scales = new[f"state{which}"], new[f"absmax{which}"].view(-1, 2)
            rows = codes.view(-1, 2, 256)
            places = [
                next(at for at, row in enumerate(old[f"state{which}"]) if torch.equal(row, found))
                for found in rows[:, 0]
            ]
            assert torch.equal(rows[:, 0], rows[:, 1])
            ratios = scales / old[f"absmax{which}"][places][:, None]
            assert (ratios == ratios.flatten()[0]).all() and ratios.flatten()[0].log2() % 1 == 0


def test_depth_copies_codes_and_scales(tmp_path: Path) -> None:
    ckptgrow.depth(SAMPLES / "AdamW8bit", tmp_path / "a", factor=2, new="copy")
    states = stored_in(tmp_path / "a")["state"]
    old = inner_of(SAMPLES / "AdamW8bit", "down_proj.weight")
    found = [one["__bnb_optimizer_quant_state__"] for one in states.values()]
    same = [one for one in found if one["state1"].shape == (256, 8) and torch.equal(one["state1"], old["state1"])]
    assert len(same) == 2


def test_the_record_says_by_how_much_moments_were_rounded(tmp_path: Path) -> None:
    ckptgrow.width(SAMPLES / "Lion8bit", tmp_path / "a", factor=2)
    (record,) = read_checkpoint(tmp_path / "a").history
    assert record["moment_rounding"] == pytest.approx(0.9 / 64 / 2, rel=1e-4)  # 64 numbers from .1 to 1


@pytest.mark.parametrize("what", ["code", "scale"])
def test_a_state_in_8_bits_that_is_not_the_nearest_is_found(tmp_path: Path, what: str) -> None:
    ckptgrow.width(SAMPLES / "AdamW8bit", tmp_path / "a", factor=2)
    tree = stored_in(tmp_path / "a")
    record = tree["state"][1]["__bnb_optimizer_quant_state__"]
    if what == "code":
        record["state1"][3, 7] += 1 if record["state1"][3, 7] < 128 else -1
    else:  # coarser than it must be
        code_map = CodeMap(InMemory(record["qmap1"]), 256)
        values = whole(InBlocks(InMemory(record["state1"]), InMemory(record["absmax1"]), code_map))
        record["absmax1"] *= 4
        by_row = values / record["absmax1"].repeat_interleave(256).view(values.shape)
        record["state1"] = torch.bucketize(by_row, code_map.middles).to(torch.uint8)
    torch.save(tree, tmp_path / "a" / "optimizer.pt")
    report = ckptgrow.verify(SAMPLES / "AdamW8bit", tmp_path / "a")
    assert report.moments is not None and not report.moments.passed


@pytest.mark.parametrize("block", [256, 2048])
def test_older_versions_wrap_nothing_and_have_larger_blocks(tmp_path: Path, block: int) -> None:
    source = shutil.copytree(SAMPLES / "AdamW8bit", tmp_path / "a")
    tree = stored_in(source)
    for number, record in tree["state"].items():
        inner = record.pop("__bnb_optimizer_quant_state__")
        for which in "12":
            if f"qmap{which}" in inner and block != 256:
                read = InBlocks(
                    InMemory(inner[f"state{which}"]),
                    InMemory(inner[f"absmax{which}"]),
                    CodeMap(InMemory(inner[f"qmap{which}"]), 256),
                )
                values = InMemory(whole(read))
                again = in_blocks(values, CodeMap(InMemory(inner[f"qmap{which}"]), block))
                inner |= {f"state{which}": whole(again.codes), f"absmax{which}": whole(again.scales)}
        tree["state"][number] = {**record, **inner}
    for group in tree["param_groups"]:
        del group["alpha"], group["t_alpha"], group["t_beta3"]
    torch.save(tree, source / "optimizer.pt")
    ckptgrow.width(source, tmp_path / "b", factor=2)
    assert ckptgrow.verify(source, tmp_path / "b").passed
    new = stored_in(tmp_path / "b")["state"][0]
    assert new["absmax1"].shape == (-(-new["state1"].numel() // block),)


def test_codes_in_another_trainers_layout_are_refused(tmp_path: Path) -> None:
    from ckptgrow.dialects.known_dialects import DIALECTS

    assert "torchtune" in {one.trainer for one in DIALECTS.values()}
    with pytest.raises(OptimizerError, match="has moments in 8 bits, expected 32"):
        ckptgrow.convert(SAMPLES / "Lion8bit", tmp_path / "a", "litgpt")
    assert not (tmp_path / "a").exists()
    ckptgrow.convert(SAMPLES / "Lion8bit", tmp_path / "a", "litgpt", reset=("optimizer",))


def test_adams_codes_are_numbers_for_a_trainer_that_has_torchs(tmp_path: Path) -> None:
    done = ckptgrow.convert(SAMPLES / "AdamW8bit", tmp_path / "a", "litgpt")
    assert any("in 32 bits there" in one for one in done.notes)
    made = torch.load(tmp_path / "a" / "lit_model.pth", weights_only=True)["optimizer"]
    expected = torch.load(SAMPLES / "read_by_bitsandbytes.pt", weights_only=True)["AdamW8bit"]
    for own, word in (("state1", "exp_avg"), ("state2", "exp_avg_sq")):
        sums = [float(record[word].double().abs().sum()) for record in made["state"].values() if record[word].ndim == 2]
        assert sum(sums) == pytest.approx(
            sum(float(one[own].double().abs().sum()) for one in expected.values() if own in one)
        )
    assert set(made["param_groups"][0]) == {*torch.optim.AdamW([torch.zeros(1)]).defaults, "params"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_bitsandbytes_itself_goes_on_from_the_grown_state(tmp_path: Path, name: str, operator: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    getattr(ckptgrow, operator)(SAMPLES / name, tmp_path / "a", factor=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32)
    options = {"momentum": 0.9} if name == "SGD8bit" else {}
    optimizer = getattr(bitsandbytes.optim, name)(model.parameters(), lr=1e-4, **options)
    stored = stored_in(tmp_path / "a")
    optimizer.load_state_dict(stored)
    tokens = torch.arange(16)[None] % 8
    losses: list[float] = []
    for _ in range(3):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[0] > losses[-1]
    assert {record["step"] for record in optimizer.state.values()} == ({3, 8} if operator == "depth" else {8})
