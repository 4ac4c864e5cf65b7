"""Which tokenizer a checkpoint is read with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptgrow.errors import DataError, RequestError
from ckptgrow.evaluate.tokenizer import byte_tokenizer, find_tokenizer, load_tokenizer
from tests.helpers.evaluated import word_tokenizer

BYTES = byte_tokenizer()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50))
def test_a_tokens_id_is_its_byte(text: str) -> None:
    assert BYTES.encode(text) == list(text.encode())
    assert BYTES.decode(BYTES.encode(text)) == text


def test_what_looks_like_a_special_token_is_text() -> None:
    assert BYTES.encode("<0x00>") == list(b"<0x00>")
    assert BYTES.bos_token_id == BYTES.eos_token_id == 0 and BYTES.vocab_size == 256


def test_the_one_asked_for_comes_first_then_the_directory_then_the_data(tmp_path: Path) -> None:
    checkpoint, data = tmp_path / "run" / "last.ckpt", tmp_path / "data" / "val.bin"
    for file in (checkpoint, data):
        file.parent.mkdir()
        file.touch()
    with pytest.raises(RequestError, match="nothing says its tokenizer"):
        find_tokenizer(checkpoint, None, [data])
    (data.parent / "meta.json").write_text(json.dumps({"tokenizer": "bytes"}))
    assert find_tokenizer(checkpoint, None, [data]) == "bytes"
    (data.parent / "words").mkdir()
    for told in ("words", "once/elsewhere/words"):
        (data.parent / "meta.json").write_text(json.dumps({"tokenizer": told}))
        assert find_tokenizer(checkpoint, None, [data]) == str(data.parent / "words")
    (checkpoint.parent / "tokenizer.json").touch()
    assert find_tokenizer(checkpoint, None, [data]) == str(checkpoint.parent)
    assert find_tokenizer(checkpoint, "gpt2", [data]) == "gpt2"


def test_faults_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(DataError, match=r"meta\.json: cannot be read as JSON"):
        find_tokenizer(tmp_path / "a.ckpt", None)
    with pytest.raises(RequestError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path / "nowhere"), "a.ckpt", 256)
    words = word_tokenizer(tmp_path / "words")
    with pytest.raises(RequestError, match="has 1200 tokens, expected at most the model's 256"):
        load_tokenizer(str(words), "a.ckpt", 256)
    assert load_tokenizer(str(words), "a.ckpt", 1200).vocab_size == 1200
