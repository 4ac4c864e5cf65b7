"""Megatron-core's own distributed checkpoints: understood, grown, written back to the bit, judged by its own logits."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptgrow
from ckptgrow.cli import run
from ckptgrow.errors import CheckpointError, ConfigError, RequestError
from ckptgrow.formats.known_formats import read_checkpoint, write_checkpoint
from ckptgrow.progress import silent
from ckptgrow.state.model import load_model
from ckptgrow.state.opening import open_state
from ckptgrow.state.translation import in_transformers_terms
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.pickles.opaque import Opaque
from ckptgrow.storage.tensors import whole
from tests.helpers.distributed import tensors_of
from tests.helpers.lightning_files import assert_same
from tests.helpers.processes import together
from tests.helpers.trainer_files import TRAINERS, relative_difference, trained_llama

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
SAMPLES = TRAINERS / "megatron"
NAMES = ("llama", "qwen2", "qwen3", "bf16")
FLOAT32 = 2e-6  # of the largest logit: two implementations round differently
BFLOAT16 = 2e-2  # the trainer computed in it, with 8 bits of precision


def config_of(name: str) -> Path | None:
    """Transformers' config as the user passes it: only the sample with Megatron-LM's arguments needs none."""
    return None if name == "llama" else SAMPLES / f"{name}.json"


def logits_of(path: Path, config: Path | None) -> torch.Tensor:
    state = open_state(path, config=config)
    model = load_model(state.checkpoint, state.claim, state.config, torch.float32, "cpu").eval()
    with torch.no_grad():
        return model(torch.load(SAMPLES / "logits.pt")["tokens"]).logits


def expected_of(name: str) -> torch.Tensor:
    return torch.load(SAMPLES / "logits.pt")[name]


def tolerance(name: str) -> float:
    return BFLOAT16 if name == "bf16" else FLOAT32


def common_of(path: Path) -> dict[str, Any]:
    return torch.load(path / "common.pt", weights_only=False)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_computes_what_megatron_computed(name: str) -> None:
    assert relative_difference(logits_of(SAMPLES / name, config_of(name)), expected_of(name)) < tolerance(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_written_back_to_the_bit(tmp_path: Path, name: str) -> None:
    there, how = in_transformers_terms(read_checkpoint(SAMPLES / name), config_of(name))
    assert how is not None and how.dialect.trainer == "Megatron"
    write_checkpoint(how.undone(there), tmp_path / "a", silent, force=False)
    assert_same(tensors_of(SAMPLES / name), tensors_of(tmp_path / "a"))
    old, new = common_of(SAMPLES / name), common_of(tmp_path / "a")
    new.pop("ckptgrow", None)  # where no arguments say the sizes, the config is kept in it
    assert_same(old, new)
    assert (SAMPLES / name / "metadata.json").read_bytes() == (tmp_path / "a" / "metadata.json").read_bytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_a_state_of_megatrons_grows_and_computes_the_same(tmp_path: Path, name: str, operator: str) -> None:
    request = ckptgrow.StateRequest(config=config_of(name))
    getattr(ckptgrow, operator)(SAMPLES / name, tmp_path / "a", factor=2, request=request)
    report = ckptgrow.verify(SAMPLES / name, tmp_path / "a", config=config_of(name))
    assert report.passed and report.moments is not None
    assert relative_difference(logits_of(tmp_path / "a", None), expected_of(name)) < tolerance(name)
    grown = tensors_of(tmp_path / "a")
    num_layers = 2 if operator == "width" else 4
    stacks = [one for key, one in grown.items() if "decoder.layers." in str(key) and "_extra_state" not in str(key)]
    assert stacks and all(one.shape[0] == num_layers for one in stacks)
    extra = [key for key in read_keys(tmp_path / "a") if "linear_qkv._extra_state" in key]
    expected = {f"shard_{layer}_{num_layers}" for layer in range(num_layers)}
    assert {key.rpartition("/")[2] for key in extra} == expected


def read_keys(path: Path) -> list[str]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    return list(FileSystemReader(path).read_metadata().state_dict_metadata)


def test_the_fused_rows_go_by_key_and_value_head() -> None:
    """Taken apart by hand: (layers, groups, two queries, a key and a value, head, hidden)."""
    there, _ = in_transformers_terms(read_checkpoint(SAMPLES / "llama"))
    stored = tensors_of(SAMPLES / "llama")
    fused = next(one for key, one in stored.items() if "exp_avg." in str(key) and "linear_qkv.weight" in str(key))
    parts = fused.view(2, 2, 4, 4, 16)[1].split([2, 1, 1], dim=1)
    raw = there.optimizers[0]
    records = {
        name: raw.records[key] for group in raw.groups for key, name in zip(group.keys, group.names or (), strict=True)
    }
    for letter, part in zip("qkv", parts, strict=True):
        record = records[f"model.layers.1.self_attn.{letter}_proj.weight"]
        assert torch.equal(whole(record["exp_avg"]), part.reshape(-1, 16))


def test_the_weights_in_half_precision_are_made_from_the_grown_masters(tmp_path: Path) -> None:
    ckptgrow.width(SAMPLES / "bf16", tmp_path / "a", factor=2, request=ckptgrow.StateRequest(config=config_of("bf16")))
    found = {str(key): one for key, one in tensors_of(tmp_path / "a").items()}
    masters = [(key, one) for key, one in found.items() if "fp32_param." in key]
    assert len(masters) == 9 and all(one.dtype == torch.float32 for _, one in masters)
    for key, master in masters:
        half = found[key.replace("optimizer.state.fp32_param.", "")]
        assert half.dtype == torch.bfloat16 and torch.equal(half, master.bfloat16())


def test_megatron_lms_arguments_say_the_grown_sizes(tmp_path: Path) -> None:
    ckptgrow.width(SAMPLES / "llama", tmp_path / "a", factor=2)
    old, new = (vars(common_of(path)["args"]) for path in (SAMPLES / "llama", tmp_path / "a"))
    sizes = {"hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 8, "num_query_groups": 4}
    assert new == {**old, **sizes} and list(new) == list(old)


def with_arguments(directory: Path, version: str) -> Path:
    """The sample with what Megatron-LM's own script put into `common.pt`, some hundred arguments of its classes."""
    shutil.copytree(SAMPLES / "llama", directory)
    shutil.copy(SAMPLES / f"common_{version}.pt", directory / "common.pt")
    return directory


def plain(value: Any) -> Any:
    """An object of Megatron's classes as the names, arguments and state that the pickle has."""
    return {key: plain(one) for key, one in vars(value).items()} if isinstance(value, Opaque) else value


@pytest.mark.parametrize("version", ["0.16.1", "0.20"])
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_megatron_lms_own_arguments_are_read_and_written_back(tmp_path: Path, version: str, operator: str) -> None:
    source = with_arguments(tmp_path / "a", version)
    getattr(ckptgrow, operator)(source, tmp_path / "b", factor=2)
    assert ckptgrow.verify(source, tmp_path / "b").passed
    assert relative_difference(logits_of(tmp_path / "b", None), expected_of("llama")) < FLOAT32
    old, new = (dict(archive.read(path / "common.pt")) for path in (source, tmp_path / "b"))
    before, after = (vars(one.pop("args")) for one in (old, new))
    changed = {key: after[key] for key in before if plain(before[key]) != plain(after[key])}
    deeper, wider = {"num_layers": 4}, {"num_attention_heads": 8, "num_query_groups": 4}
    wider |= {"hidden_size": 32, "ffn_hidden_size": 48}
    assert changed == (wider if operator == "width" else deeper) and list(after) == list(before)
    assert_same(old["opt_param_scheduler"], new["opt_param_scheduler"])


@pytest.mark.parametrize(("field", "value"), [("layernorm_zero_centered_gamma", True), ("window_size", (4, 0))])
def test_an_argument_that_makes_another_model_is_refused_by_its_name(tmp_path: Path, field: str, value: Any) -> None:
    source = with_arguments(tmp_path / "a", "0.16.1")
    common = dict(archive.read(source / "common.pt"))
    setattr(common["args"], field, value)
    archive_writing.write(common, source / "common.pt", silent, None)
    with pytest.raises(ConfigError, match=re.escape(f"its config says {field} {value!r}, expected")):
        ckptgrow.width(source, tmp_path / "b")


def test_the_norms_epsilon_goes_by_either_name(tmp_path: Path) -> None:
    """Megatron-LM calls it `norm_epsilon` before 0.16, and `layernorm_epsilon` since."""
    source = with_arguments(tmp_path / "a", "0.16.1")
    common = dict(archive.read(source / "common.pt"))
    common["args"].layernorm_epsilon = 1e-3
    archive_writing.write(common, source / "common.pt", silent, None)
    assert open_state(source).config["rms_norm_eps"] == 1e-3
    assert open_state(SAMPLES / "llama").config["rms_norm_eps"] == 1e-5


def test_without_grouping_each_head_is_a_group(tmp_path: Path) -> None:
    """Megatron-LM leaves `num_query_groups` at 1 there; here the file has two, so that this is refused by its sizes."""
    shutil.copytree(SAMPLES / "llama", tmp_path / "a")
    common = common_of(SAMPLES / "llama")
    common["args"] = Namespace(**{**vars(common["args"]), "group_query_attention": False, "num_query_groups": 1})
    torch.save(common, tmp_path / "a" / "common.pt")
    with pytest.raises((CheckpointError, ConfigError), match=r"linear_qkv\.weight has shape"):
        ckptgrow.width(tmp_path / "a", tmp_path / "b", request=ckptgrow.StateRequest(dialect="megatron-llama"))


def test_a_directory_of_iterations_names_them(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "llama", tmp_path / "a" / "iter_0000005")
    (tmp_path / "a" / "latest_checkpointed_iteration.txt").write_text("5")
    with pytest.raises(CheckpointError, match="holds iter_0000005, expected one iteration"):
        ckptgrow.width(tmp_path / "a", tmp_path / "b")


def test_rates_that_megatron_cannot_group_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="makes itself"):
        ckptgrow.width(SAMPLES / "llama", tmp_path / "b", request=ckptgrow.StateRequest(lr_rule="mup"))
    assert not (tmp_path / "b").exists()


def test_an_optimizer_of_another_layout_is_an_error(tmp_path: Path) -> None:
    """Flat buckets lie under keys that no parameter has; they are not left behind."""
    from torch.distributed.checkpoint import state_dict_saver

    weights = {
        "decoder.final_layernorm.weight": torch.ones(4),
        "optimizer.state.exp_avg.bucket_0": torch.ones(4),
    }
    state_dict_saver.save(weights, checkpoint_id=tmp_path / "a", no_dist=True)
    for name in ("common.pt", "metadata.json"):
        shutil.copy(SAMPLES / "llama" / name, tmp_path / "a" / name)
    with pytest.raises(CheckpointError, match="expected Megatron's fully reshardable optimizer"):
        ckptgrow.width(tmp_path / "a", tmp_path / "b")


def test_a_distributed_optimizer_has_its_step_in_its_groups(tmp_path: Path) -> None:
    """Fully reshardable, its tensors lie as those of others; here the other optimizer's file is written so."""
    shutil.copytree(SAMPLES / "bf16", tmp_path / "a")
    common = common_of(SAMPLES / "bf16")
    groups = [{**group, "step": 5} for group in common["optimizer"]["optimizer"]["param_groups"]]
    common["optimizer"] = {"optimizer": {"param_groups": groups}, "param_state_sharding_type": "fully_reshardable"}
    torch.save(common, tmp_path / "a" / "common.pt")
    request = ckptgrow.StateRequest(config=config_of("bf16"))
    ckptgrow.depth(tmp_path / "a", tmp_path / "b", factor=2, request=request)
    assert ckptgrow.verify(tmp_path / "a", tmp_path / "b", config=config_of("bf16")).passed
    assert common_of(tmp_path / "b")["optimizer"] == common["optimizer"]


def test_two_processes_write_the_same_as_one(tmp_path: Path) -> None:
    ckptgrow.depth(SAMPLES / "llama", tmp_path / "alone", factor=2)
    done = together(2, "depth", str(SAMPLES / "llama"), str(tmp_path / "shared"), "--factor", "2")
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert_same(tensors_of(tmp_path / "alone"), tensors_of(tmp_path / "shared"))
    assert_same(common_of(tmp_path / "alone"), common_of(tmp_path / "shared"))


def test_inspect_names_megatron(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(SAMPLES / "llama"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trainer"] == "Megatron"


@pytest.mark.parametrize("name", ["qwen3", "bf16"])
def test_a_state_of_megatrons_becomes_a_directory_of_transformers(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    ckptgrow.convert(SAMPLES / name, tmp_path / "hf", "huggingface", config=config_of(name))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(torch.load(SAMPLES / "logits.pt")["tokens"]).logits
    assert relative_difference(found, expected_of(name)) < tolerance(name)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_what_becomes_transformers_becomes_megatrons_again_to_the_bit(tmp_path: Path, name: str) -> None:
    source = SAMPLES / name
    ckptgrow.convert(source, tmp_path / "hf", "huggingface", config=config_of(name))
    done = ckptgrow.convert(tmp_path / "hf", tmp_path / name, "megatron")
    assert any("override_opt_param_scheduler" in one for one in done.left_out)
    assert_same(tensors_of(source), tensors_of(tmp_path / name))
    assert sorted(read_keys(source)) == sorted(read_keys(tmp_path / name))
    old, new = common_of(source), common_of(tmp_path / name)
    kept = ("checkpoint_version", "iteration", "optimizer")
    assert_same({key: old[key] for key in kept}, {key: new[key] for key in kept})
    told = vars(new["args"])
    assert told.items() >= {"hidden_size": 16, "num_query_groups": 2, "group_query_attention": True}.items()
    assert told["untie_embeddings_and_output_weights"] == (name != "qwen3") and told["no_save_rng"]
    assert relative_difference(logits_of(tmp_path / name, None), expected_of(name)) < FLOAT32


def test_weights_in_half_precision_get_masters_of_the_same_values(tmp_path: Path) -> None:
    """As Megatron makes them when it starts."""
    source = trained_llama(tmp_path / "hf", torch.bfloat16)
    ckptgrow.convert(source, tmp_path / "a", "megatron")
    found = {str(key): one for key, one in tensors_of(tmp_path / "a").items()}
    masters = {key: one for key, one in found.items() if "fp32_param." in key}
    assert len(masters) == 9
    for key, master in masters.items():
        half = found[key.replace("optimizer.state.fp32_param.", "")]
        assert half.dtype == torch.bfloat16 and torch.equal(half.float(), master)
        assert found[key.replace("fp32_param", "exp_avg")].dtype == torch.float32
    assert common_of(tmp_path / "a")["optimizer"]["optimizer"]["state"]["common_step"] == 3
    ckptgrow.width(tmp_path / "a", tmp_path / "b", factor=2)
    assert ckptgrow.verify(tmp_path / "a", tmp_path / "b").passed


def test_weights_alone_become_megatrons_and_say_so(tmp_path: Path) -> None:
    source = trained_llama(tmp_path / "hf", torch.float32)
    (source / "optimizer.pt").unlink()
    done = ckptgrow.convert(source, tmp_path / "a", "megatron")
    assert not any("override" in one for one in done.left_out)
    assert vars(common_of(tmp_path / "a")["args"])["no_save_optim"] is True
    assert "optimizer" not in common_of(tmp_path / "a")


def test_decay_of_vectors_which_megatron_has_not_is_told(tmp_path: Path) -> None:
    source = trained_llama(tmp_path / "hf", torch.float32)
    state = torch.load(source / "optimizer.pt", weights_only=True)
    for group in state["param_groups"]:
        group["weight_decay"] = 0.1
    torch.save(state, source / "optimizer.pt")
    done = ckptgrow.convert(source, tmp_path / "a", "megatron")
    assert "weight decay 0.1 of vectors" in done.left_out


def test_a_model_that_megatrons_arguments_cannot_say_is_refused(tmp_path: Path) -> None:
    source = trained_llama(tmp_path / "hf", torch.float32)
    config = json.loads((source / "config.json").read_text())
    rotary = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    (source / "config.json").write_text(json.dumps({**config, "rope_parameters": rotary}))
    with pytest.raises(RequestError, match="cannot say rope_parameters"):
        ckptgrow.convert(source, tmp_path / "a", "megatron")
    assert not (tmp_path / "a").exists()


def test_a_step_that_megatrons_own_clock_would_not_follow_is_refused(tmp_path: Path) -> None:
    """It counts samples, and sets the rates when Megatron-LM starts."""
    source = with_arguments(tmp_path / "a", "0.16.1")
    with pytest.raises(RequestError, match=r"opt_param_scheduler is a schedule where no rule knows of one.*step=.keep"):
        ckptgrow.depth(source, tmp_path / "b", factor=2, request=ckptgrow.StateRequest(step=3))
    assert not (tmp_path / "b").exists()
    ckptgrow.depth(SAMPLES / "llama", tmp_path / "c", factor=2, request=ckptgrow.StateRequest(step=3))
    assert common_of(tmp_path / "c")["iteration"] == 3
