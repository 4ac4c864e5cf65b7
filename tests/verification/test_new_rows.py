"""Planted mistakes in rows of new tokens and positions, their moments, the record and the files: each is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptgrow
from ckptgrow import VerifySettings
from tests.helpers.gpt2 import POSITIONS, VOCABULARY, perturbed_gpt2
from tests.helpers.lightning_files import edited, trained_checkpoint
from tests.helpers.vocabularies import LONGER, NEW, OLD, ROWS, model_directory, tokenizer

WTE, WPE = "model.transformer.wte.weight", "model.transformer.wpe.weight"
Tree = dict[str, Any]
QUICK = VerifySettings(batches=1)


def record(tree: Tree, number: int) -> Tree:
    return tree["optimizer_states"][0]["state"][number]


def history(tree: Tree) -> Tree:
    return tree["ckptgrow"]["history"][-1]


def exchange(rows: torch.Tensor, one: int, other: int) -> None:
    rows[[one, other]] = rows[[other, one]].clone()


OF_TOKENS: dict[str, tuple[Callable[[Tree], object], str]] = {
    "an old row": (lambda tree: tree["state_dict"][WTE][3].mul_(1.01), f"{WTE}: the weight differs"),
    "old rows exchanged": (lambda tree: exchange(tree["state_dict"][WTE], 3, 4), f"{WTE}: the weight differs"),
    "a new row": (
        lambda tree: tree["state_dict"][WTE][-1].mul_(1 + 1e-9),
        f"{WTE}: 1 new rows, row {VOCABULARY + 4} first, are not the record's mean of old ones",
    ),
    "new rows at random": (lambda tree: tree["state_dict"][WTE][VOCABULARY:].normal_(), "rise"),
    "a first moment": (lambda tree: record(tree, 0)["exp_avg"][-1].fill_(1e-6), f"exp_avg of {WTE}"),
    "second moments of zero": (lambda tree: record(tree, 0)["exp_avg_sq"][VOCABULARY:].zero_(), f"exp_avg_sq of {WTE}"),
    "a second moment": (lambda tree: record(tree, 0)["exp_avg_sq"][-1].mul_(1.001), f"exp_avg_sq of {WTE}"),
    "an old moment": (lambda tree: record(tree, 0)["exp_avg"][2].mul_(1.001), f"exp_avg of {WTE}"),
    "the record's size": (lambda tree: history(tree).update(vocab=VOCABULARY + 6), "the size of vocab is"),
    "the record's recipe": (lambda tree: history(tree).update(init="copy", pieces=[[0]] * 5), "the record's copy"),
    "the record's rows": (lambda tree: history(tree).update(kept=[[0, VOCABULARY - 1, 0]]), "coordinates"),
    "a record that is none": (lambda tree: history(tree).update(kept="all"), "which no growth writes"),
    "another size": (lambda tree: history(tree).pop("pad_to"), "['pad_to'] is missing"),
    "a token's number": (
        lambda tree: tree["hyper_parameters"]["config"].update(eos_token_id=3),
        "config['eos_token_id'] is 3, expected 0",
    ),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory.mktemp("rows") / "small.ckpt", perturbed_gpt2())


def named(small: Path, grown: Path, words: str) -> bool:
    report = ckptgrow.verify(small, grown, settings=QUICK)
    return not report.passed and any(words in one for one in report.sentences)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("mistake", OF_TOKENS)
def test_a_mistake_in_rows_of_tokens_is_named(small: Path, tmp_path: Path, mistake: str) -> None:
    change, words = OF_TOKENS[mistake]
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", size=VOCABULARY + 5)
    assert ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=QUICK).passed
    assert named(small, edited(tmp_path / "grown.ckpt", change), words)


OF_POSITIONS: dict[str, tuple[Callable[[Tree], object], str]] = {
    "an old row": (lambda tree: tree["state_dict"][WPE][3].mul_(1.01), f"{WPE}: the weight differs"),
    "a new row": (lambda tree: tree["state_dict"][WPE][-1].mul_(1.01), f"{WPE}: 1 new rows"),
    "a new moment": (lambda tree: record(tree, 1)["exp_avg_sq"][-1].fill_(1e-9), f"exp_avg_sq of {WPE}"),
    "the record": (lambda tree: history(tree).update(new_positions="interpolate"), "the record's interpolate"),
}


@pytest.mark.parametrize("mistake", OF_POSITIONS)
def test_a_mistake_in_rows_of_positions_is_named(small: Path, tmp_path: Path, mistake: str) -> None:
    change, words = OF_POSITIONS[mistake]
    ckptgrow.positions(small, tmp_path / "grown.ckpt", size=POSITIONS + 5)
    assert named(small, edited(tmp_path / "grown.ckpt", change), words)


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
def test_a_mistake_in_stretched_moments_is_named(small: Path, tmp_path: Path, key: str) -> None:
    ckptgrow.positions(small, tmp_path / "grown.ckpt", size=POSITIONS + 5, new="interpolate")
    grown = edited(tmp_path / "grown.ckpt", lambda tree: record(tree, 1)[key][1].mul_(1.01))
    assert named(small, grown, f"{key} of {WPE}")


def _config(path: Path, name: str, **fields: object) -> None:
    tree = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**tree, **fields}))


def _log(path: Path, change: Callable[[Tree], object]) -> None:
    tree = json.loads((path / "ckptgrow.json").read_text())
    change(tree["history"][-1])
    (path / "ckptgrow.json").write_text(json.dumps(tree))


def _exchanged(path: Path) -> None:
    """The rows of two tokens, in the weights and in the record alike."""
    tensors = load_file(path / "model.safetensors")
    exchange(tensors["model.embed_tokens.weight"], 7, 8)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    state = torch.load(path / "optimizer.pt", weights_only=True)
    for key in ("exp_avg", "exp_avg_sq"):
        exchange(state["state"][0][key], 7, 8)
    torch.save(state, path / "optimizer.pt")

    def change(last: Tree) -> None:
        (start, stop, first), *others = last["kept"]
        last["kept"] = [[start, 7, first], [7, 8, first + 8], [8, 9, first + 7], [9, stop, first + 9], *others]

    _log(path, change)


OF_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the end's number": (lambda path: _config(path, "config.json", eos_token_id=5), "config['eos_token_id'] is 5"),
    "generation's": (
        lambda path: _config(path, "generation_config.json", eos_token_id=[1]),
        "generation_config.json['eos_token_id'] is [1]",
    ),
    "another setting": (lambda path: _config(path, "generation_config.json", temperature=2), "temperature"),
    "the old tokenizer": (
        lambda path: shutil.copy(tokenizer(OLD) / "tokenizer.json", path / "tokenizer.json"),
        "the file tokenizer.json is not the one of",
    ),
    "no tokenizer": (lambda path: (path / "tokenizer_config.json").unlink(), "the file tokenizer_config.json is not"),
    "rows of other tokens": (_exchanged, "is the old row of"),
    "other pieces": (
        lambda path: _log(path, lambda last: last["pieces"].__setitem__(0, [5, 6])),
        "is the mean of the rows of",
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mistake", OF_FILES)
def test_a_mistake_in_another_tokenizers_directory_is_named(tmp_path: Path, mistake: str) -> None:
    change, words = OF_FILES[mistake]
    directory, out = model_directory(tmp_path / "small", tied=True), tmp_path / "out"
    ckptgrow.vocab(directory, out, tokenizer=str(tokenizer(LONGER)))
    assert ckptgrow.verify(directory, out, settings=QUICK).passed
    change(out)
    assert named(directory, out, words)


def test_two_growths_at_once_are_to_be_verified_one_by_one(small: Path, tmp_path: Path) -> None:
    ckptgrow.vocab(small, tmp_path / "more.ckpt", size=VOCABULARY + 1)
    ckptgrow.width(tmp_path / "more.ckpt", tmp_path / "wide.ckpt")
    assert ckptgrow.verify(tmp_path / "more.ckpt", tmp_path / "wide.ckpt", settings=QUICK).passed
    with pytest.raises(ckptgrow.RequestError, match="verify each on its own"):
        ckptgrow.verify(small, tmp_path / "wide.ckpt", settings=QUICK)


def test_a_lost_token_among_the_samples_is_named(tmp_path: Path) -> None:
    directory, out = model_directory(tmp_path / "small", tied=True), tmp_path / "out"
    ckptgrow.vocab(directory, out, tokenizer=str(tokenizer(NEW)))
    (tmp_path / "tokens.txt").write_text(" ".join(["5"] * 40 + [str(ROWS - 1)]))
    with pytest.raises(ckptgrow.DataError, match="expected tokens that the grown model has too"):
        ckptgrow.verify(directory, out, settings=VerifySettings(tokens=tmp_path / "tokens.txt", batches=1))
