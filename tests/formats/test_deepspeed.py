"""DeepSpeed's partitions: joined, grown and cut again, as DeepSpeed wrote them for sizes that nothing divides."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.errors import CheckpointError, OptimizerError, RequestError
from ckptgrow.formats.deepspeed.partitions import sub_groups
from ckptgrow.formats.known_formats import read_checkpoint, write_checkpoint
from ckptgrow.progress import silent
from ckptgrow.storage.archives import archive
from ckptgrow.storage.tensors import whole
from ckptgrow.verification.trees import differences
from tests.helpers.paths import ROOT
from tests.helpers.trainer_files import TRAINERS, relative_difference, trainers_logits, transformers_logits

ZERO = TRAINERS / "deepspeed"
SAMPLES = {
    **{path.name: path for path in sorted(ZERO.iterdir()) if path.is_dir()},
    "lightning": TRAINERS / "lightning_deepspeed" / "run.ckpt",
}
FLOAT32, BFLOAT16 = 2e-6, 2e-2  # of the largest logit: float32 summed in another order, and the engine's bfloat16


def files_of(path: Path) -> dict[str, Path]:
    return {str(one.relative_to(path)): one for one in path.rglob("*") if one.is_file()}


def written_again(source: Path, target: Path) -> Path:
    write_checkpoint(read_checkpoint(source), target, silent, force=False)
    return target


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_read_is_written_again_to_the_bit(tmp_path: Path, name: str) -> None:
    old, new = files_of(SAMPLES[name]), files_of(written_again(SAMPLES[name], tmp_path / name))
    assert new.keys() == old.keys()
    for file in old:
        if not file.endswith((".pt", ".safetensors")):
            assert new[file].read_bytes() == old[file].read_bytes()
        elif file.endswith(".safetensors"):
            before, after = load_file(old[file]), load_file(new[file])
            assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
        else:
            trees: list[Any] = [archive.read(new[file]), archive.read(old[file])]
            if name == "zero3":
                clear_paddings(trees, file)
            assert list(differences(trees[0], trees[1], (file,))) == []


def clear_paddings(trees: list[Any], file: str) -> None:
    """Stage 3 leaves whatever was in the memory behind the last process's piece of a tensor."""
    rank = int(re.findall(r"pp_rank_(\d)", file)[0]) if "pp_rank" in file else 0
    if rank != 2:
        return
    model = archive.read(SAMPLES["zero3"] / "global_step5" / "zero_pp_rank_2_mp_rank_00_model_states.pt")
    for tree in trees:
        if "model_states" in file:
            tree["frozen_param_fragments"]["model.norm.weight"] = None
            continue
        flats: list[Any] = tree["optimizer_state_dict"]["fp32_flat_groups"]
        for index, (flat, shapes) in enumerate(zip(flats, model["param_shapes"], strict=True)):  # type: ignore
            flats[index] = torch.cat(list(pieces(whole(flat), shapes))).tolist()


def pieces(flat: torch.Tensor, shapes: Any) -> Iterator[torch.Tensor]:
    """The last of three processes' elements of each tensor."""
    start = 0
    for shape in shapes.values():
        each = -(-prod(shape) // 3)
        yield flat[start : start + prod(shape) - 2 * each]
        start += each


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero2-round-robin", "zero1-universal", "lightning"])
def test_the_masters_are_what_the_module_was_rounded_from(name: str) -> None:
    """DeepSpeed makes the module's weights from the partitions after every step."""
    checkpoint = read_checkpoint(SAMPLES[name])
    file = next(SAMPLES[name].rglob("mp_rank_00_model_states.pt"))
    module: Any = archive.read(file)["module"]  # type: ignore[index]
    assert list(checkpoint.tensors) == list(module)
    for key, tensor in checkpoint.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(whole(tensor).to(module[key].dtype), whole(module[key]))


@pytest.mark.parametrize("name", SAMPLES)
def test_transformers_computes_what_the_engine_computed(name: str) -> None:
    tokens, expected = trainers_logits(SAMPLES[name])
    bound = BFLOAT16 if name in ("zero2", "zero3") else FLOAT32
    assert relative_difference(transformers_logits(SAMPLES[name], tokens), expected) < bound


GROWTHS = [
    ("zero1", "depth"),
    ("zero2", "width"),
    ("zero3", "width"),
    ("zero1-universal", "width"),
    ("lightning", "depth"),
]
OTHERS = [(name, operator) for name in SAMPLES for operator in ("width", "depth") if (name, operator) not in GROWTHS]


@pytest.mark.parametrize(
    ("name", "operator"), [*GROWTHS, *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)]
)
def test_a_state_grows_as_one_and_is_cut_again(tmp_path: Path, name: str, operator: str) -> None:
    target = tmp_path / SAMPLES[name].name
    getattr(ckptgrow, operator)(SAMPLES[name], target, factor=2)
    report = ckptgrow.verify(SAMPLES[name], target)
    assert report.passed and report.moments is not None
    assert {re.sub(r"layers\.\d", "", file) for file in files_of(target)} - {"ckptgrow.json"} == {
        re.sub(r"layers\.\d", "", file) for file in files_of(SAMPLES[name])
    }
    if (target / "model.safetensors").is_file():
        grown, copies = read_checkpoint(target).tensors, load_file(target / "model.safetensors")
        assert all(torch.equal(whole(grown[key]).to(one.dtype), one) for key, one in copies.items())


def test_the_moments_of_a_tensor_are_those_of_its_place_in_every_file(tmp_path: Path) -> None:
    """Taken apart by hand: the parts of three processes, one behind the other, without the padding at the end."""
    folder = SAMPLES["zero1"] / "global_step5"
    ranks: list[Any] = [archive.read(folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt") for rank in range(3)]
    model: Any = archive.read(folder / "mp_rank_00_model_states.pt")
    found = read_checkpoint(SAMPLES["zero1"]).optimizers[0]
    for group, shapes in enumerate(model["param_shapes"]):
        states = [rank["optimizer_state_dict"]["base_optimizer_state"]["state"][group] for rank in ranks]
        flat = torch.cat([whole(state["exp_avg_sq"]) for state in states])
        sizes = [prod(shape) for shape in shapes.values()]
        assert len(flat) > sum(sizes)
        for (name, shape), one in zip(shapes.items(), flat.split([*sizes, len(flat) - sum(sizes)]), strict=False):
            assert torch.equal(whole(found.records[name]["exp_avg_sq"]), one.reshape(shape))


def test_new_layers_have_their_groups_step_and_the_user_is_told(tmp_path: Path) -> None:
    result = ckptgrow.depth(SAMPLES["zero1"], tmp_path / "out", factor=2)
    assert any("one step for all parameters" in str(note) for note in result.notes)
    records = read_checkpoint(tmp_path / "out").optimizers[0].records
    assert {float(whole(record["step"])) for record in records.values()} == {5.0}
    assert float(whole(records["model.layers.1.mlp.up_proj.weight"]["exp_avg"]).abs().max()) == 0


def test_an_optimizer_that_begins_anew_leaves_the_masters_in_their_groups(tmp_path: Path) -> None:
    request = ckptgrow.StateRequest(reset=("optimizer",))
    ckptgrow.depth(SAMPLES["zero3"], tmp_path / "out", factor=2, request=request)
    grown, small = read_checkpoint(tmp_path / "out"), read_checkpoint(SAMPLES["zero3"])
    assert grown.optimizers[0].records == {}
    old, new = (one.optimizers[0].groups for one in (small, grown))
    assert [group.options for group in old] == [group.options for group in new]
    assert [len(group.keys) for group in new] == [2 * 14 + 2, 2 * 4]
    name = "model.layers.2.mlp.up_proj.weight"
    assert torch.equal(whole(grown.tensors[name]), whole(small.tensors["model.layers.1.mlp.up_proj.weight"]))


def test_earlier_states_beside_the_last_one_are_other_checkpoints(tmp_path: Path) -> None:
    source = shutil.copytree(SAMPLES["zero2"], tmp_path / "source")
    shutil.copytree(source / "global_step5", source / "global_step3")
    result = ckptgrow.width(source, tmp_path / "out")
    assert any("left behind" in str(note) and "global_step3" in str(note) for note in result.notes)


def test_a_folder_of_the_state_alone_grows_too(tmp_path: Path) -> None:
    source = SAMPLES["zero2"] / "global_step5"
    ckptgrow.width(source, tmp_path / "global_step5", request=ckptgrow.StateRequest(config=SAMPLES["zero2"]))
    assert ckptgrow.inspect(tmp_path / "global_step5").global_step == 5


def test_a_partitioned_state_becomes_one_of_transformers(tmp_path: Path) -> None:
    ckptgrow.convert(SAMPLES["zero3-tied"], tmp_path / "hf", "huggingface")
    tokens, expected = trainers_logits(SAMPLES["zero3-tied"])
    assert relative_difference(transformers_logits(tmp_path / "hf", tokens), expected) < FLOAT32
    optimizer = torch.load(tmp_path / "hf" / "optimizer.pt", weights_only=True)
    assert optimizer["state"][0]["exp_avg"].shape == (17, 14)


def changed(source: Path, target: Path, file: str, change: Any) -> Path:
    """A copy of a checkpoint with one file's tree changed."""
    from ckptgrow.storage.archives import archive_writing

    shutil.copytree(source, target)
    tree: Any = archive.read(target / file)
    change(tree)
    archive_writing.write(tree, target / "changed.pt", lambda amount: None)
    (target / "changed.pt").replace(target / file)
    return target


def refused(source: Path, pattern: str) -> None:
    with pytest.raises((CheckpointError, RequestError), match=pattern) as caught:
        ckptgrow.width(source, source.parent / "out")
    assert "\n" not in str(caught.value) and not (source.parent / "out").exists()


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    lost = shutil.copytree(SAMPLES["zero1"], tmp_path / "lost")
    (lost / "global_step5" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    refused(lost, "not those of all processes")
    (lost / "global_step5" / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    refused(lost, "partitions of 1 processes, expected those of 3")
    (lost / "global_step5" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    refused(lost, "partitions are missing")
    tensor_parallel = shutil.copytree(SAMPLES["zero2"], tmp_path / "parallel") / "global_step5"
    shutil.copy(tensor_parallel / "mp_rank_00_model_states.pt", tensor_parallel / "mp_rank_01_model_states.pt")
    refused(tensor_parallel.parent, "no tensor or pipeline parallelism")
    both = shutil.copytree(SAMPLES["zero1"], tmp_path / "both")
    shutil.copytree(SAMPLES["zero1-universal"] / "global_step5_universal", both / "global_step5_universal")
    (both / "latest_universal").write_text("global_step5_universal")
    refused(both, "each hold a state")


def test_masters_without_zero_and_aligned_tensors_are_refused(tmp_path: Path) -> None:
    def keep_masters(tree: Any) -> None:
        tree["optimizer"] = {"optimizer_state_dict": tree["optimizer"], "fp32_groups": []}

    model, first = "global_step5/mp_rank_00_model_states.pt", "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt"
    refused(changed(SAMPLES["zero0"], tmp_path / "masters", model, keep_masters), "zero_optimization.stage 1 or more")

    def align(tree: Any) -> None:
        tree["optimizer_state_dict"]["param_alignment_paddings"][0][0] = 3

    refused(changed(SAMPLES["zero1"], tmp_path / "aligned", first, align), "parameter_alignment off")

    def shorten(tree: Any) -> None:
        tree["optimizer_state_dict"]["single_partition_of_fp32_groups"].pop()

    refused(changed(SAMPLES["zero1"], tmp_path / "short", first, shorten), "zero_pp_rank_0|flat parameters|malformed")


def test_a_scheduler_that_lightning_and_deepspeed_both_keep_moves_in_both(tmp_path: Path) -> None:
    def keep_twice(tree: Any) -> None:
        tree["lr_scheduler"] = dict(tree["lr_schedulers"][0])

    file = "checkpoint/mp_rank_00_model_states.pt"
    source = changed(SAMPLES["lightning"], tmp_path / "run.ckpt", file, keep_twice)
    ckptgrow.width(source, tmp_path / "out.ckpt", request=ckptgrow.StateRequest(step=3, lr_rule="mup"))
    tree: Any = archive.read(tmp_path / "out.ckpt" / file)
    assert tree["lr_schedulers"][0]["last_epoch"] == 3 and tree["global_step"] == 3
    assert tree["lr_scheduler"] == tree["lr_schedulers"][0]
    assert len(tree["lr_schedulers"][0]["base_lrs"]) == len(read_checkpoint(tmp_path / "out.ckpt").optimizers[0].groups)
    assert ckptgrow.verify(source, tmp_path / "out.ckpt").passed


def test_one_step_a_group_has_no_place_for_two(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(SAMPLES["zero1"])
    records: Any = checkpoint.optimizers[0].records
    records["model.embed_tokens.weight"]["step"] = 3
    with pytest.raises(OptimizerError, match="step differs between parameters of one group"):
        write_checkpoint(checkpoint, tmp_path / "out", silent, force=False)
    assert not (tmp_path / "out").exists()


def test_inspect_reads_no_tensor_and_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(SAMPLES["zero3"])]) == 0
    shown = capsys.readouterr().out
    assert "deepspeed" in shown and "for 20 parameters" in shown and "no record of model.norm.weight" in shown


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["width", "depth"])
@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "lightning"])
def test_deepspeed_resumes_the_grown_state_at_the_small_ones_loss(tmp_path: Path, name: str, operator: str) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    getattr(ckptgrow, operator)(SAMPLES[name], tmp_path / name, factor=2)
    small, grown = losses(SAMPLES[name]), losses(tmp_path / name)
    assert abs(small[0] - grown[0]) <= 1e-3  # the Trainer prints three places
    assert grown[-1] < grown[0]


def losses(path: Path) -> list[float]:
    name = path.name.removesuffix("-universal")
    processes = "3" if name in ("zero1", "zero3") else "2"
    script = str(ROOT / "fixtures" / "trainers" / "make_deepspeed.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes, script, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return [float(one) for one in re.findall(r"'loss': '([\d.]+)'", done.stdout)]


def test_a_sub_group_ends_with_the_tensor_that_fills_it() -> None:
    """A process has two elements of each tensor: as in DeepSpeed, a sub-group is full with as many as are asked for."""
    assert sub_groups({"a": 4, "b": 3, "c": 4}, 2, 2) == [{"a": 4}, {"b": 3}, {"c": 4}]
    assert sub_groups({"a": 4, "b": 3, "c": 4}, 2, 3) == [{"a": 4, "b": 3}, {"c": 4}]
