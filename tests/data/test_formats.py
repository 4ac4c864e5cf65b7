"""The same documents give the same tokens from every format, and those are the tokens of their text alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecord import TFRecordWriter
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ckptgrow.cli import run
from ckptgrow.data import inputs
from ckptgrow.data.preparation import prepare

MARK = "\ufeff"
SPELLED = ["<|endoftext|>", "<s>", "</s>", "[UNK]", "\0", MARK, "\r\n", "\u2028", "\x85", "\f", " ", "😀"]
PIECES = st.one_of(st.sampled_from(SPELLED), st.text())
TEXTS = st.lists(PIECES, min_size=1, max_size=6).map("".join)


def json_lines(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": one, "id": 1}) + "\n" for one in texts).encode()


def raw_json_lines(texts: Sequence[str]) -> bytes:
    return "\r\n".join(json.dumps({"text": one}, ensure_ascii=False) for one in texts).encode()


def as_parquet(path: Path, texts: Sequence[str]) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": list(texts)}), path)


def as_tfrecord(path: Path, texts: Sequence[str]) -> None:
    writer = TFRecordWriter(str(path))
    for one in texts:
        writer.write({"text": (one.encode(), "byte")})
    writer.close()


FORMATS: dict[str, Callable[[Path, Sequence[str]], object]] = {
    "a.jsonl": lambda path, texts: path.write_bytes(json_lines(texts)),
    "b.json": lambda path, texts: path.write_bytes(MARK.encode() + raw_json_lines(texts)),
    "c.jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(json_lines(texts))),
    "d.ndjson.zst": lambda path, texts: path.write_bytes(zstandard.compress(raw_json_lines(texts))),
    "e.parquet": as_parquet,
    "f.tfrecord": as_tfrecord,
}
LINES: dict[str, Callable[[bytes], bytes]] = {
    "a.txt": lambda data: data,
    "b.txt": lambda data: MARK.encode() + data,
    "c.txt.gz": gzip.compress,
    "d.txt.zst": zstandard.compress,
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level BPE that `data` trained on text which spells its own end token."""
    home = tmp_path_factory.mktemp("words")
    (home / "a.txt").write_text("the <|endoftext|> of the end\n" * 20)
    prepare([str(home / "a.txt")], home / "out", train_tokenizer=300, val_fraction=0)
    return str(home / "out" / "tokenizer")


def found(path: Path, out: Path, tokenizer: str, **options: object) -> list[int]:
    done = prepare([str(path)], out, tokenizer=tokenizer, val_fraction=0, force=True, **options)  # type: ignore[arg-type]
    ids = np.fromfile(out / "train.bin", dtype=done.dtype).tolist()
    assert ids.count(done.separator) == done.num_documents["train"]
    return ids


def expected(texts: Sequence[str], tokenizer: str) -> list[int]:
    """By transformers alone, its special tokens split; bytes by Python."""
    kept = [one.rstrip("\r\n") for one in texts if one.strip()]
    if tokenizer == "bytes":
        return [byte for one in kept for byte in [*one.encode(), 0]]
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    encode = loaded(kept, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [number for one in encode for number in [*one, loaded.eos_token_id]]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=8).filter(lambda texts: any(one.strip() for one in texts)))
def test_records_of_every_format_give_the_same_tokens(tmp_path: Path, words: str, texts: list[str]) -> None:
    tokenizers = [words] if "\0" in "".join(texts) else [words, "bytes"]
    for tokenizer in tokenizers:
        wanted = expected(texts, tokenizer)
        for name, write in FORMATS.items():
            write(tmp_path / name, texts)
            assert found(tmp_path / name, tmp_path / "out", tokenizer) == wanted, name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(TEXTS.map(lambda one: one.replace("\n", " ")), min_size=1, max_size=8).filter(
        lambda texts: any(one.strip() for one in texts) and not texts[0].startswith(MARK)
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_lines_give_the_tokens_of_records(
    tmp_path: Path, words: str, texts: list[str], line_end: str, ended: bool
) -> None:
    wanted = expected(texts, words)
    content = (line_end.join(texts) + (line_end if ended else "")).encode()
    for name, compressed in LINES.items():
        (tmp_path / name).write_bytes(compressed(content))
        assert found(tmp_path / name, tmp_path / "out", words) == wanted, name


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS.filter(lambda one: one.strip() and not one.startswith(MARK)))
def test_a_whole_file_is_the_document_that_a_record_holds(tmp_path: Path, words: str, text: str) -> None:
    for name, compressed in LINES.items():
        (tmp_path / name).write_bytes(compressed(text.encode()))
        assert found(tmp_path / name, tmp_path / "out", words, documents="files") == expected([text], words), name


def saved(directory: Path, kind: str) -> str:
    """Tokenizers that find their own end token in text even where it is not a special token: whole words, pieces."""
    backend = {
        "words": lambda: Tokenizer(models.WordLevel({"</s>": 0, "[UNK]": 1, "a": 2, "b": 3, "<": 4}, "[UNK]")),
        "unigram": lambda: Tokenizer(
            models.Unigram([("</s>", 0.0), ("[UNK]", 0.0), *((one, -3.0) for one in "ab</s>▁")], 1, False)
        ),
    }[kind]()
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = {"words": pre_tokenizers.WhitespaceSplit(), "unigram": pre_tokenizers.Metaspace()}[kind]
    ends = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="[UNK]")
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 0)])
    ends.save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("kind", ["words", "unigram"])
@pytest.mark.parametrize("text", ["a </s> b", "</s>", "a</s></s>b", "</s></s>", "a b"])
def test_no_tokenizer_adds_an_end_or_takes_one_out_of_text(tmp_path: Path, kind: str, text: str) -> None:
    tokenizer = saved(tmp_path / "tokenizer", kind)
    assert AutoTokenizer.from_pretrained(tokenizer)("a b")["input_ids"].count(0) == 1
    (tmp_path / "a.txt").write_text(f"{text}\na\n")
    assert found(tmp_path / "a.txt", tmp_path / "out", tokenizer).count(0) == 2


def test_parsing_takes_spelled_tokens_for_tokens_and_ends_no_document_twice(tmp_path: Path, words: str) -> None:
    (tmp_path / "a.txt").write_text("one<|endoftext|>two\nthree<|endoftext|>\n")
    done = prepare([str(tmp_path)], tmp_path / "out", tokenizer=words, val_fraction=0, special_tokens="parse")
    ids = np.fromfile(tmp_path / "out" / "train.bin", dtype=done.dtype)
    assert AutoTokenizer.from_pretrained(words).decode(ids) == "one<|endoftext|>two<|endoftext|>three<|endoftext|>"
    (tmp_path / "b.txt").write_bytes(b"a\0b\n")
    done = prepare([str(tmp_path / "b.txt")], tmp_path / "other", val_fraction=0, special_tokens="parse")
    assert np.fromfile(tmp_path / "other" / "train.bin", dtype=done.dtype).tolist() == [97, 0, 98, 0]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": "half \\ud83d of one"}\n', "a.jsonl line 2: holds \\ud83d"),
        ("a.jsonl", b'{"text": "fine"}\n\n{"text": "a\\u0000b"}\n', "a.jsonl line 3: gives the token 0"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": 3}\n', "a.jsonl line 2: has a number in field 'text'"),
        ("a.jsonl", b'{"text": "fine"}\n{"body": "x"}\n', "a.jsonl line 2: has no field 'text', only body"),
        ("a.jsonl", b'["text"]\n', "a.jsonl line 1: is a list"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "a.jsonl line 1: is not JSON"),
        ("a.txt", b"fine\nb\0\n", "a.txt line 2: gives the token 0"),
        ("a.txt", b"fine\n" * 400 + b"\xff\n", "a.txt line 401: is not UTF-8"),
    ],
)
@pytest.mark.parametrize("piece_bytes", [inputs.PIECE_BYTES, 7])
def test_what_cannot_be_a_document_is_named_by_file_and_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    where: str,
    piece_bytes: int,
) -> None:
    monkeypatch.setattr(inputs, "PIECE_BYTES", piece_bytes)
    (tmp_path / name).write_bytes(content)
    for options in (["--tokenizer=bytes"], ["--train-tokenizer", "300"]):
        code = run(["data", str(tmp_path / name), str(tmp_path / "out"), *options])
        error = capsys.readouterr().err
        assert code == (0 if "token 0" in where and options[0] == "--train-tokenizer" else 2)
        assert code == 0 or (error.count("\n") == 1 and where in error), error
        assert code == 0 or not (tmp_path / "out").exists()


def test_nulls_and_byte_order_marks_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = b'{"text": "a"}\n{"text": null}\n{"text": "b"}\n{"text": null}\n'
    (tmp_path / "a.jsonl").write_bytes(MARK.encode() + lines)
    as_parquet(tmp_path / "a.parquet", ["a", None, "b", None])  # type: ignore[list-item]
    said, whole = {}, ("--val-fraction=0", "--tokenizer=bytes")
    for name in ("a.jsonl", "a.parquet"):
        assert run(["data", str(tmp_path / name), str(tmp_path / f"{name}-out"), *whole]) == 0
        said[name] = capsys.readouterr().out
        assert np.fromfile(tmp_path / f"{name}-out" / "train.bin", dtype=np.uint16).tolist() == [97, 0, 98, 0]
    assert "a.jsonl line 2: has null instead of text; left out (2 in all" in said["a.jsonl"]
    assert "a.parquet row 2: has null instead of text; left out (2 in all" in said["a.parquet"]
    assert "a.jsonl: a byte order mark at the beginning is left out" in said["a.jsonl"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(4, 2**17), min_size=2, max_size=6, unique=True), st.booleans())
def test_ids_are_written_as_they_are_whatever_gaps_there_are(tmp_path: Path, ids: list[int], added: bool) -> None:
    vocabulary = {"<|end|>": 0, "[UNK]": 1, **{f"w{number}": number for number in ids}}
    backend = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", unk_token="[UNK]")
    if added:
        wrapped.add_tokens(["extra"])
    wrapped.save_pretrained(tmp_path / "tokenizer")
    text = " ".join(f"w{number}" for number in ids) + " extra"
    (tmp_path / "a.txt").write_text(text)
    wanted = [*wrapped(text, add_special_tokens=False)["input_ids"], 0]
    assert found(tmp_path / "a.txt", tmp_path / "out", str(tmp_path / "tokenizer")) == wanted
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["vocab_size"] == max([*ids, *wanted]) + 1
    assert meta["dtype"] == ("uint16" if meta["vocab_size"] <= 2**16 else "uint32")


def test_a_tokenizer_that_has_changed_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of an interrupted run were encoded with the tokenizer of then."""
    (tmp_path / "a.txt").write_text("the cat sat on the mat and the dog on the log\n" * 30)
    source = str(tmp_path / "a.txt")
    whole = prepare([source], tmp_path / "whole", train_tokenizer=280)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ckptgrow.data.preparation._joined", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare([source], tmp_path / "out", train_tokenizer=258)
    assert prepare([source], tmp_path / "out", train_tokenizer=280).sha256 == whole.sha256
