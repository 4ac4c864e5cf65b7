"""Loss and perplexity by token, against transformers' own loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from ckptgrow.cli import run
from ckptgrow.errors import DataError, RequestError
from ckptgrow.evaluate import blocks, tokens
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import Evaluation
from ckptgrow.evaluate.processes import launched
from ckptgrow.evaluate.subject import Subject
from tests.helpers.evaluated import CONTEXT, WIKITEXT

BLOCK = 48


@torch.no_grad()
def loss_of(model: PreTrainedModel, block: list[int]) -> float:
    """Mean over the block's predictions, by transformers."""
    ids = torch.tensor([block])
    return float(model(input_ids=ids, labels=ids).loss)


def measured(subject: Subject, cut: blocks.Blocks, **settings: object) -> Evaluation:
    with launched("cpu") as processes:
        chosen = EvalSettings(**{"batch_size": 5, **settings})  # type: ignore[arg-type]
        done = blocks.block_loss("text", subject, cut, chosen, processes)
    assert done is not None
    return done


def test_the_scripts_blocks_have_the_mean_of_transformers_losses(subject: Subject, model: PreTrainedModel) -> None:
    found = measured(subject, blocks.script_blocks(tokens.file_rows(WIKITEXT, subject), BLOCK)).results["text"]
    lines = WIKITEXT.read_text(encoding="utf-8").splitlines(keepends=True)
    joined = list("".join(line for line in lines if line.strip()).encode())
    whole = [joined[begin : begin + BLOCK] for begin in range(0, len(joined) - BLOCK + 1, BLOCK)]
    losses = [loss_of(model, block) for block in whole]
    assert found["loss,none"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert found["perplexity,none"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert found["num_tokens"] == len(whole) * (BLOCK - 1)
    spread = np.std(losses, ddof=1) / len(losses) ** 0.5
    assert found["loss_stderr,none"] == pytest.approx(spread, rel=1e-5)


def test_the_scripts_blocks_do_not_cross_a_thousand_rows() -> None:
    rows = [[number % 250] for number in range(2005)]
    cut = blocks.script_blocks(rows, 300)
    assert [len(cut[index]) for index in range(len(cut))] == [300, 300, 300, 300, 300, 300, 5]
    assert cut[3][0] == 1000 % 250 and cut[6].tolist() == [0, 1, 2, 3, 4]


def test_every_token_but_the_first_is_predicted_once(subject: Subject, model: PreTrainedModel) -> None:
    ids = np.arange(3 * BLOCK + 7) % 256
    cut = blocks.every_token(ids, BLOCK)
    found = measured(subject, cut)
    assert found.results["text"]["num_tokens"] == len(ids) - 1
    total = 0.0
    for begin in range(0, len(ids) - 1, BLOCK):
        block = ids[begin : begin + BLOCK + 1].tolist()
        total += loss_of(model, block) * (len(block) - 1)
    assert found.results["text"]["loss,none"] == pytest.approx(total / (len(ids) - 1), rel=1e-6)


def test_the_context_can_be_filled_to_its_end(subject: Subject) -> None:
    size = blocks.checked_block_size(None, subject)
    assert size == CONTEXT
    measured(subject, blocks.every_token(np.arange(200) % 256, size))
    with pytest.raises(RequestError, match="block_size=65: the model has 64 positions"):
        blocks.checked_block_size(65, subject)


@pytest.mark.parametrize(("dtype", "name"), [(np.uint16, None), (np.uint16, "uint16"), (np.uint32, "uint32")])
def test_memory_mapped_blocks_are_framed(
    subject: Subject, model: PreTrainedModel, tmp_path: Path, dtype: type, name: str | None
) -> None:
    ids = (np.arange(200) * 7 % 256).astype(dtype)
    ids.tofile(tmp_path / "val.bin")
    if name is not None:
        (tmp_path / "meta.json").write_text(json.dumps({"dtype": name, "tokenizer": "bytes"}))
    cut = blocks.framed_blocks(tokens.map_tokens(tmp_path / "val.bin"), 52, 0, 0)
    found = measured(subject, cut).results["text"]
    losses = [loss_of(model, [0, *ids[begin : begin + 50].tolist(), 0]) for begin in range(0, 200, 50)]
    assert found["loss,none"] == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_documents_end_with_the_end_token(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "ab"}\n{"text": "c"}\n')
    assert np.asarray(tokens.text_tokens(tmp_path / "a.jsonl", subject)[0:9]).tolist() == [97, 98, 0, 99, 0]
    (tmp_path / "a.txt").write_text("ab\nc\n")
    assert np.asarray(tokens.text_tokens(tmp_path / "a.txt", subject)[0:9]).tolist() == list(b"ab\nc\n")


def test_faults_of_token_files_are_named(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"odd.bin: has 3 bytes, expected a multiple of 2"):
        tokens.map_tokens(tmp_path / "odd.bin")
    np.array([1, 2, 999], dtype=np.uint16).tofile(tmp_path / "other.bin")
    with pytest.raises(DataError, match="token 999, expected ids below the model's 256"):
        measured(subject, blocks.every_token(tokens.map_tokens(tmp_path / "other.bin"), 8))
    np.array([1], dtype=np.uint16).tofile(tmp_path / "one.bin")
    with pytest.raises(DataError, match="not enough tokens"):
        measured(subject, blocks.every_token(tokens.map_tokens(tmp_path / "one.bin"), 8))
    (tmp_path / "meta.json").write_text('{"dtype": "float8"}')
    with pytest.raises(DataError, match="dtype float8, expected uint16 or uint32"):
        tokens.map_tokens(tmp_path / "one.bin")


def test_the_tokenizer_comes_from_the_meta_json_of_the_data(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "val.bin")
    assert run(["eval", "perplexity", str(checkpoint), str(tmp_path / "val.bin"), "--json"]) == 2
    assert "nothing says its tokenizer" in capsys.readouterr().err
    (tmp_path / "meta.json").write_text('{"tokenizer": "bytes", "dtype": "uint16"}')
    assert run(["eval", "perplexity", str(checkpoint), str(tmp_path / "val.bin"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tokenizer"] == "bytes" and shown["results"]["val.bin"]["num_tokens"] == 99
