"""Models on the hub: fetched by its own library from a server that speaks as the hub does, and without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import ckptgrow
from ckptgrow.addresses.hub import HubAddress, _needed
from ckptgrow.errors import RequestError
from tests.helpers.families import perturbed
from tests.helpers.hub_server import COMMIT, hub_of
from tests.helpers.paths import ROOT

FIXTURE = ROOT / "fixtures" / "gpt2-tiny.ckpt"
PATHS = ("owner/tiny", "hf://owner/tiny", "hf://owner/tiny@main", f"hf://owner/tiny@{COMMIT}", "hf://owner/tiny/inner")


@dataclass(frozen=True)
class Hub:
    """A hub with one model, as the environment of a program says it; `asked` are the paths of all requests."""

    endpoint: str
    home: Path
    model: Path
    asked: list[str]

    def run(self, arguments: Sequence[str], *, is_online: bool = True) -> subprocess.CompletedProcess[str]:
        """`ckptgrow` with these arguments."""
        told = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"}
        environment = {**os.environ, **told, "HF_HUB_OFFLINE": "0" if is_online else "1"}
        command = [sys.executable, "-m", "ckptgrow", *arguments]
        return subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's repository with what nobody needs beside it, and another model in a folder."""
    path = tmp_path_factory.mktemp("model")
    perturbed("llama").save_pretrained(path)
    perturbed("llama").save_pretrained(path / "inner")
    for name in ("pytorch_model.bin", "tf_model.h5", "model.gguf", "consolidated.safetensors", "deep/er.txt"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"not to be fetched")
    (path / "README.md").write_text("its own card")
    return path


@pytest.fixture
def hub(tmp_path: Path, model: Path) -> Iterator[Hub]:
    asked: list[str] = []
    with hub_of({"owner/tiny": model}, asked) as endpoint:
        yield Hub(endpoint, tmp_path, model, asked)


def test_a_model_is_fetched_once_without_what_it_does_not_need_and_grows_without_a_network(hub: Hub) -> None:
    done = hub.run(["width", "owner/tiny", "grown", "--separate", "none"])
    assert done.returncode == 0, done.stderr
    assert "note: owner/tiny: taken for " in done.stderr
    fetched = {one.rpartition("/")[2] for one in hub.asked if "/resolve/" in one}
    assert fetched == {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    hub.asked.clear()
    again = hub.run(["width", "hf://owner/tiny", "again", "--separate", "none"], is_online=False)
    assert again.returncode == 0 and not hub.asked, again.stderr
    written = hub.home / "grown" / "model.safetensors"
    assert written.read_bytes() == (hub.home / "again" / "model.safetensors").read_bytes()
    local = hub.run(["width", str(hub.model / "inner"), "local", "--separate", "none"])
    assert local.returncode == 0 and (hub.home / "local" / "model.safetensors").read_bytes() == written.read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("owner/other", "is neither a file or directory nor a model on the hub that you may read"),
        ("hf://owner/tiny@v9", "the model has no revision 'v9' on the hub"),
        (
            "hf://owner/tiny/deep",
            "or an archive of torch.save, expected some; it has er.txt",
        ),
        ("hf://owner/tiny/nowhere", "has no weights there"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(hub: Hub, given: str, said: str) -> None:
    done = hub.run(["inspect", given])
    assert done.returncode == 2
    assert done.stderr.startswith(f"ckptgrow: {given}: ") and said in done.stderr and done.stderr.count("\n") == 1


def test_a_name_that_is_not_in_the_cache_is_told_so_without_a_network(hub: Hub) -> None:
    for given in ("owner/tiny", "gpt2"):
        done = hub.run(["inspect", given], is_online=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"{given}: is neither a file or directory nor a model in the hub's cache" in done.stderr


@pytest.mark.parametrize("given", PATHS)
def test_every_spelling_reads_the_model(hub: Hub, given: str) -> None:
    done = hub.run(["inspect", given, "--json"])
    assert done.returncode == 0 and '"model_type": "llama"' in done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["dcp", "lightning"])
def test_a_folder_of_the_hub_holds_a_whole_state(hub: Hub, tmp_path: Path, kind: str) -> None:
    saved = tmp_path / "repository" / "run"
    saved.mkdir(parents=True)
    ckptgrow.convert(FIXTURE, saved / ("last.ckpt" if kind == "lightning" else "step-5"), kind)
    (saved / "notes.bin").write_bytes(b"not to be fetched")
    address = "hf://owner/run/run" + ("" if kind == "lightning" else "/step-5")
    with hub_of({"owner/run": tmp_path / "repository"}, hub.asked) as endpoint:
        there = replace(hub, endpoint=endpoint)
        done = there.run(["inspect", address, "--json"])
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["kind"], found["global_step"]) == (kind, ckptgrow.inspect(FIXTURE).global_step)
        assert not any(one.endswith("notes.bin") for one in hub.asked)
    again = there.run(["inspect", address, "--json", "--check"], is_online=False)
    assert again.returncode == 0, again.stderr
    assert {**json.loads(again.stdout), "sha256": None} == found


@pytest.mark.parametrize(
    ("folder", "files", "chosen"),
    [
        ("", [".metadata", "__0_0.distcp", "meta.pt", "config.json", "old/.metadata", "old/__0_0.distcp"], 4),
        ("old", ["config.json", "old/.metadata", "old/__0_0.distcp"], -2),
        ("", ["config.json", "model_and_optim/.metadata", "model_and_optim/__0_0.distcp", "train/rank0.pt"], 4),
        ("c", ["c/pytorch_model_fsdp_0/.metadata", "c/optimizer_0/.metadata", "c/scheduler.pt", "x.json"], 3),
        ("", ["global_step2/mp_rank_00_model_states.pt", "latest", "model.safetensors", "x.gguf"], 3),
        ("", ["model.safetensors", "optimizer.pt", "recipe_state.pt", "pytorch_model.bin", "a/last.ckpt"], 3),
        ("", ["lit_model.pth", "model_config.yaml", "tokenizer.json", "lit_model.gguf"], 3),
        ("a/last.ckpt", ["a/last.ckpt", "model.safetensors"], 1),
        ("a/last.ckpt", ["a/config.json", "a/last.ckpt", "a/first.ckpt"], 2),
        ("model.safetensors", ["model.safetensors", "config.json", "optimizer.pt", "tf_model.h5"], 3),
    ],
)
def test_of_every_kind_of_checkpoint_what_belongs_to_it_is_fetched(folder: str, files: list[str], chosen: int) -> None:
    expected = files[:chosen] if chosen > 0 else files[chosen:]
    assert sorted(_needed(HubAddress("o/n", None, folder), sorted(files), "hf://o/n")) == sorted(expected)


def test_of_several_checkpoints_one_is_to_be_named() -> None:
    with pytest.raises(RequestError, match=r"holds 2 checkpoints, expected one; name it, as hf://o/n/run/b.ckpt"):
        _needed(HubAddress("o/n", None, "run"), ["run/a.ckpt", "run/b.ckpt"], "hf://o/n/run")


def test_addresses_in_words() -> None:
    assert HubAddress.of("hf://models/a/b@r/c/d") == HubAddress("a/b", "r", "c/d")
    assert str(HubAddress.of("hf://a/b@r/c/d/")) == "hf://a/b@r/c/d"
    assert HubAddress.of("hf://gpt2") == HubAddress("gpt2")
    with pytest.raises(RequestError, match="expected hf://OWNER/NAME"):
        HubAddress.of("hf://@main")
