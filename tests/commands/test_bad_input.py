"""Bad input gets one clear line and exit 2, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptgrow.cli import run
from tests.helpers.commands import refused
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import Edit, edited, save_lightning


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, token_batches(2))
    return save_lightning(tmp_path_factory.mktemp("good") / "small.ckpt", model, [optimizer])


@pytest.fixture
def source(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(good, tmp_path / "small.ckpt"))


def only(path: Path) -> bool:
    return [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.ckpt", b"this is not a checkpoint\n"),
        ("empty.ckpt", b""),
        ("zip.ckpt", b"PK\x03\x04" + bytes(100)),
        ("pickle.ckpt", b"\x80\x02}q\x00."),
    ],
)
def test_a_file_that_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(["width", str(path), str(tmp_path / "out.ckpt")], capsys, name)
    assert only(path)


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["width", str(tmp_path / "none.ckpt"), str(tmp_path / "out.ckpt")], capsys, "none.ckpt", "no such file")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99, 0.9999])
def test_a_truncated_checkpoint(source: Path, capsys: pytest.CaptureFixture[str], share: float) -> None:
    size = source.stat().st_size
    os.truncate(source, int(size * share))
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, "small.ckpt")
    assert only(source)


class CreatesFile:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("command", ["width", "depth", "inspect"])
def test_a_pickle_that_would_run_code_is_never_run(
    source: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    victim = source.with_name("created")
    tree = torch.load(source, weights_only=True)
    tree["callbacks"] = {"evil": CreatesFile(victim)}
    torch.save(tree, source)
    out = [] if command == "inspect" else [str(source.with_name("out.ckpt"))]
    refused([command, str(source), *out], capsys, "small.ckpt", "names code", "pathlib.Path")
    assert not victim.exists() and only(source)


def test_weights_without_optimizer_are_grown_and_it_is_said(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(source, lambda tree: tree.pop("optimizer_states"))
    assert run(["width", str(source), str(source.with_name("out.ckpt"))]) == 0
    assert "no optimizer state" in capsys.readouterr().out


def lose_a_row(tree: dict[str, Any]) -> None:
    tree["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(30, 12)


def rename_state(tree: dict[str, Any]) -> None:
    for record in tree["optimizer_states"][0]["state"].values():
        record["mystery"] = record.pop("exp_avg_sq")


def lose_parameters(tree: dict[str, Any]) -> None:
    tree["optimizer_states"][0]["param_groups"][0]["params"] = list(range(20))
    tree["optimizer_states"][0]["state"] = {
        number: record for number, record in tree["optimizer_states"][0]["state"].items() if number < 20
    }


def change_config(**fields: Any) -> Edit:
    return lambda tree: tree["hyper_parameters"]["config"].update(fields)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lose_a_row, ["optimizer", "--param-order"]),
        (rename_state, ["optimizer", "mystery"]),
        (lose_parameters, ["optimizer", "20 parameters"]),
        (change_config(n_embd=18), ["transformer.wte.weight", "[31, 12]", "[31, 18]", "--config"]),
        (change_config(n_head=5), ["residual 12", "heads 5"]),
        (change_config(n_layer=3), ["transformer.h.2.", "missing"]),
        (change_config(n_layer=1), ["transformer.h.1.", "1 layers"]),
        (change_config(n_embd="wide"), ["n_embd", "'wide'"]),
        (change_config(model_type="mamba9"), ["mamba9", "gpt2"]),
        (lambda tree: tree["hyper_parameters"].pop("config"), ["--config FILE"]),
        (
            lambda tree: tree["state_dict"].update({"model.extra.weight": torch.ones(3)}),
            ["model.extra.weight", "--drop"],
        ),
        (lambda tree: tree["state_dict"].pop("model.transformer.h.1.ln_2.bias"), ["h.1.ln_2.bias", "missing"]),
        (lambda tree: tree.pop("state_dict"), ["state_dict"]),
        (lambda tree: tree["state_dict"].update({"model.transformer.wpe.weight": 3}), ["wpe"]),
    ],
)
def test_contents_that_do_not_fit_are_named(
    source: Path, capsys: pytest.CaptureFixture[str], edit: Edit, words: list[str]
) -> None:
    edited(source, edit)
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, "small.ckpt", *words)
    assert only(source)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_weights_are_refused_without_a_flag(
    source: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    def spoil(tree: dict[str, Any]) -> None:
        tree["state_dict"]["model.transformer.h.1.mlp.c_proj.weight"][7, 3] = value

    edited(source, spoil)
    out = source.with_name("out.ckpt")
    refused(["width", str(source), str(out)], capsys, "h.1.mlp.c_proj.weight", "--allow-nonfinite")
    assert only(source)
    assert run(["width", str(source), str(out), "--allow-nonfinite", "--noise", "0"]) == 0
    capsys.readouterr()


def test_an_existing_output_is_refused_without_force(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("out.ckpt")
    shutil.copy(source, out)
    refused(["width", str(source), str(out)], capsys, "out.ckpt", "--force")
    assert out.read_bytes() == source.read_bytes()
    assert run(["width", str(source), str(out), "--force"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_input_is_never_the_output(source: Path, capsys: pytest.CaptureFixture[str], force: list[str]) -> None:
    before = source.read_bytes()
    link = source.with_name("link.ckpt")
    link.symlink_to(source)
    refused(["width", str(source), str(source), *force], capsys, "the input itself")
    refused(["width", str(source), str(link), *force], capsys, "the input itself")
    assert source.read_bytes() == before


def test_a_failed_growth_keeps_what_force_would_replace(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(tree: dict[str, Any]) -> None:
        tree["state_dict"]["model.transformer.wpe.weight"][0, 0] = float("nan")

    out = source.with_name("out.ckpt")
    shutil.copy(source, out)
    precious = out.read_bytes()
    edited(source, spoil)
    refused(["width", str(source), str(out), "--force"], capsys, "wpe")
    assert out.read_bytes() == precious


def test_a_missing_directory_is_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["width", str(source), str(source.parent / "no" / "out.ckpt")], capsys, "no such directory")


def test_a_disk_without_room_is_foreseen(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    refused(["width", str(source), str(source.with_name("out.ckpt"))], capsys, "free", "GiB")
    assert only(source)


@pytest.mark.parametrize("factor", ["1", "0", "-2", "1.5", "two"])
@pytest.mark.parametrize("command", ["width", "depth"])
def test_factors_that_cannot_be(source: Path, capsys: pytest.CaptureFixture[str], command: str, factor: str) -> None:
    refused([command, str(source), str(source.with_name("out.ckpt")), "--factor", factor], capsys, "--factor", factor)
    assert only(source)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--how", "weird"], ["--how", "diagonal or tile"]),
        (["--noise", "-1"], ["--noise"]),
        (["--noise", "nan"], ["--noise"]),
        (["--noise", "some"], ["--noise some"]),
        (["--noise", "1e308"], ["--noise 1e308", "0 to 64"]),
        (["--separate", "apart"], ["--separate apart", "split or noise or none"]),
        (["--separate", "split", "--noise", "0.5"], ["--separate split", "--noise 0.5", "contradict"]),
        (["--separate", "none", "--noise", "0.5"], ["--separate none", "--noise 0.5", "contradict"]),
        (["--separate", "noise", "--noise", "0"], ["--separate noise", "--noise 0", "contradict"]),
        (["--separate", "split", "--how", "pad", "--ffn", "40"], ["--separate split", "pad"]),
        (["--spread", "0"], ["--spread 0", "at most 1.5"]),
        (["--spread", "1.6"], ["--spread 1.6", "at most 1.5"]),
        (["--spread", "nan"], ["--spread nan", "at most 1.5"]),
        (["--separate", "none", "--spread", "1"], ["--spread 1", "--separate split", "leave it out"]),
        (["--noise", "1", "--spread", "1"], ["--spread 1", "--separate split", "leave it out"]),
        (["--spread", "1", "--how", "pad", "--ffn", "40"], ["--spread 1", "--separate split", "leave it out"]),
        (["--ffn", "20"], ["--ffn 20", "already"]),
        (["--lr-rule", "fast"], ["--lr-rule", "keep or mup"]),
        (["--step", "soon"], ["--step soon"]),
        (["--step", "-3"], ["--step -3"]),
        (["--reset", "everything"], ["--reset everything"]),
        (["--ffn", "10"], ["--ffn 10", "20"]),
        (["--hidden", "40", "--factor", "2"], ["exclude"]),
        (["--heads", "4"], ["head"]),
        (["--kv-heads", "4"], ["kv-heads"]),
        (["--ffn", "33", "--lr-rule", "mup"], ["uneven"]),
        (["--drop", "nothing"], ["--drop nothing"]),
        (["--config", "none.json"], ["none.json"]),
        (["--param-order", "none.txt"], ["none.txt"]),
        (["--unknown"], ["--unknown"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_requests_that_cannot_be(
    source: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    refused(["width", str(source), str(source.with_name("out.ckpt")), *arguments], capsys, *words)
    assert only(source)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--doubling-layers", "alternate_id", "--new", "copy"],
        ["--doubling-layers", "alternate_id", "--new", "zero-norm"],
        ["--doubling-layers", "append_copy", "--place", "append"],
        ["--doubling-layers", "append_id", "--layers", "0,1,1"],
        ["--layers", "0,0,1", "--place", "alternate"],
        ["--layers", "0,0,1", "--factor", "2"],
        ["--layers", "0,1"],
    ],
)
def test_layers_are_said_once(source: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    refused(["depth", str(source), str(source.with_name("out.ckpt")), *arguments], capsys, arguments[0])
    assert only(source)


@pytest.mark.parametrize("command", ["width", "depth", "verify", "inspect"])
def test_missing_arguments_are_named(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run([command]) == 2
    shown = capsys.readouterr()
    assert "Missing argument" in shown.err and len(shown.err.splitlines()) == 1
    assert shown.out.startswith(f"Usage: ckptgrow {command}")


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["widen"], capsys, "widen")
