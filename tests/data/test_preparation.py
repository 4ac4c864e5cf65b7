"""Prepared data against tokens encoded directly, from every kind of input, in any number of processes."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from tfrecord import TFRecordWriter
from transformers import AutoTokenizer

from ckptgrow.cli import run
from ckptgrow.data import inputs, preparation
from ckptgrow.data.preparation import prepare
from ckptgrow.errors import DataError, RequestError
from tests.helpers.commands import refused

TEXTS = [f"document {number}: señor {'naïve ' * (number % 7)}and more" for number in range(300)]


def text(path: Path) -> Path:
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


def json_lines() -> bytes:
    return "".join(json.dumps({"text": one, "id": 1}) + "\n" for one in TEXTS).encode()


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(300)), "text": TEXTS}), path)


def tfrecord(path: Path) -> None:
    writer = TFRecordWriter(str(path))
    for one in TEXTS:
        writer.write({"text": (one.encode(), "byte")})
    writer.close()


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": text,
    "windows.txt": lambda path: path.write_bytes("\r\n".join(TEXTS).encode()),
    "a.txt.gz": lambda path: path.write_bytes(gzip.compress(("\n".join(TEXTS)).encode())),
    "a.jsonl": lambda path: path.write_bytes(json_lines()),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(json_lines())),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(json_lines())),
    "a.parquet": parquet,
    "c4-train.tfrecord": tfrecord,
}


def tokens(out: Path, split: str) -> bytes:
    return np.fromfile(out / f"{split}.bin", dtype=np.uint16).astype(np.uint8).tobytes()


def documents(out: Path, split: str) -> list[str]:
    return [one.decode() for one in tokens(out, split).split(b"\0")[:-1]]


def test_a_tokenizer_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a line\n")
    refused(["data", str(tmp_path / "a.txt"), str(tmp_path / "out")], capsys, "--tokenizer: is missing", "bytes")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_input_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    done = prepare([str(tmp_path / name)], tmp_path / "out", val_fraction=0.2)
    assert sorted(documents(tmp_path / "out", "train") + documents(tmp_path / "out", "val")) == sorted(TEXTS)
    assert done.num_documents["train"] + done.num_documents["val"] == 300
    assert 30 < done.num_documents["val"] < 90
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    for split in ("train", "val"):
        file = (tmp_path / "out" / f"{split}.bin").read_bytes()
        assert meta["sha256"][split] == hashlib.sha256(file).hexdigest()
        assert meta["num_tokens"][split] * 2 == len(file)
    assert not (tmp_path / "out" / ".parts").exists()


def test_cutting_a_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = text(tmp_path / "a.txt")
    whole = prepare([str(source)], tmp_path / "whole")
    monkeypatch.setattr(inputs, "PIECE_BYTES", 997)
    cut = prepare([str(source)], tmp_path / "cut")
    assert cut.sha256 == whole.sha256


def test_the_split_depends_on_documents_alone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    half = len(TEXTS) // 2
    (tmp_path / "one" / "z.txt").write_text("\n".join(TEXTS[:half]))
    (tmp_path / "one" / "a.txt").write_text("\n".join(TEXTS[half:]))
    text(tmp_path / "b.txt")
    prepare([str(tmp_path / "one")], tmp_path / "first", val_fraction=0.3)
    prepare([str(tmp_path / "*.txt")], tmp_path / "second", val_fraction=0.3)
    assert sorted(documents(tmp_path / "first", "val")) == sorted(documents(tmp_path / "second", "val"))


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("\n".join(f"{name} {one}" for one in TEXTS))
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")]
    one, two = (prepare(files, tmp_path / str(count), workers=count) for count in (1, 2))
    assert one.sha256 == two.sha256


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = text(tmp_path / "a.txt")
    expected = prepare([str(source)], tmp_path / "whole")
    monkeypatch.setattr(inputs, "PIECE_BYTES", 2000)
    real, calls = preparation._tokenize, []

    def failing(task: tuple[int, inputs.InputPiece, Path, preparation.Recipe]) -> object:
        calls.append(task[0])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(preparation, "_tokenize", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare([str(source)], tmp_path / "out")
    assert not (tmp_path / "out" / "meta.json").exists()
    assert len(list((tmp_path / "out" / ".parts").rglob("*.json"))) == 3
    assert prepare([str(source)], tmp_path / "out").sha256 == expected.sha256


def test_a_trained_tokenizer_encodes_what_its_own_directory_encodes(tmp_path: Path) -> None:
    source = text(tmp_path / "a.txt")
    done = prepare([str(source)], tmp_path / "out", train_tokenizer=300, val_fraction=0.0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    expected = [number for one in TEXTS for number in [*tokenizer.encode(one), tokenizer.eos_token_id]]
    assert np.fromfile(tmp_path / "out" / "train.bin", dtype=np.uint16).tolist() == expected
    assert done.vocab_size == len(tokenizer) <= 300 and tokenizer.decode(expected[:20]).startswith("document 0")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', ["line 2", "not JSON"]),
        ("bad.jsonl", b'{"body": "a"}\n', ["line 1", "--field"]),
        ("bad.txt", b"fine\nlatin \xe9\n", ["line 2", "UTF-8"]),
        ("bad.parquet", b"PAR1 not", ["parquet"]),
        ("empty.txt", b"\n\n", ["no document"]),
    ],
)
def test_bad_inputs_are_named_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert run(["data", str(tmp_path / name), str(tmp_path / "out"), "--tokenizer=bytes"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error


def test_requests_that_cannot_be(tmp_path: Path) -> None:
    source = text(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file"):
        prepare([str(tmp_path / "none.txt")], tmp_path / "out")
    with pytest.raises(RequestError, match="val_fraction"):
        prepare([str(source)], tmp_path / "out", val_fraction=1.0)
    prepare([str(source)], tmp_path / "out")
    with pytest.raises(RequestError, match="force=True"):
        prepare([str(source)], tmp_path / "out")
