"""Local files: every rule of their reading, every fault named by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ckptgrow.cli import run
from ckptgrow.errors import DataError
from ckptgrow.evaluate.task_documents import pages, passages
from tests.helpers.evaluated import LAMBADA, WIKITEXT


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine here"}\n{"text": "bad \xff byte"}\n', "line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", '{"text": "fine here"}\n\n{"text": "cut off\n', "line 3: is not JSON"),
        ("a.jsonl", '["a list"]\n', "line 1: is a JSON list, expected an object"),
        ("a.jsonl", '{"texts": "x y"}\n', "line 1: has texts, expected the text under 'text'"),
        ("a.jsonl", '{"text": "fine here"}\n{"text": 3}\n', "line 2: text is a int, expected the text under 'text'"),
        ("a.jsonl", '{"text": "fine here"}\n{"text": null}\n', "line 2: text is null, expected the text under 'text'"),
        (
            "a.jsonl",
            '{"text": "fine here"}\n{"text": "half \\ud83d"}\n',
            "line 2: holds \\ud83d, half a surrogate",
        ),
        ("a.jsonl.gz", b"no gzip", "is damaged, or no .gz file"),
        ("a.jsonl", '{"text": "fine here"}\n{"text": " "}\n', "line 2: the text is empty"),
        ("a.jsonl", "\n\n", "is empty, expected text"),
        ("a.txt", b"fine\n\xe4\n", "line 2: byte 0xe4 is not UTF-8"),
        ("a.parquet", b"PAR1 no parquet", "cannot be read as parquet"),
        ("missing.jsonl", None, "no such file"),
    ],
)
def test_faults_are_named_by_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | bytes, message: str
) -> None:
    data = tmp_path / name if content is None else written(tmp_path / name, content)
    arguments = ["eval", "lambada", str(checkpoint), "--tokenizer", "bytes", "--data", str(data)]
    for measure in ("lm-eval", "original"):
        assert run([*arguments, "--measure", measure]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and str(data) in captured.err
        assert captured.err.count("\n") == 1 and captured.out == ""


def test_a_plain_file_has_a_passage_a_line(tmp_path: Path) -> None:
    data = written(tmp_path / "plain.txt", "\ufeffone two\r\n\nthree four\n")
    found = passages(data)
    assert [(one.line, one.text) for one in found.texts] == [(1, "one two"), (3, "three four")]
    assert found.notes == (f"{data}: 1 empty line left out",)


def test_white_space_at_the_end_is_told(tmp_path: Path) -> None:
    data = written(tmp_path / "open.jsonl", '{"text": "one two"}\n{"text": "three four "}\n')
    assert "1 passage ending in white space (first: line 2)" in passages(data).harness_notes[0]


def test_parquet_is_read_as_json_lines_are(tmp_path: Path) -> None:
    texts = [one.text for one in passages(LAMBADA).texts]
    parquet.write_table(pyarrow.table({"text": texts, "other": [1] * 40}), tmp_path / "a.parquet")
    assert [one.text for one in passages(tmp_path / "a.parquet").texts] == texts
    parquet.write_table(pyarrow.table({"text": ["a b", None]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 2: text is null"):
        passages(tmp_path / "b.parquet")


def test_pages_are_the_same_from_text_lines_and_whole_pages(tmp_path: Path) -> None:
    """The hub's rows keep their line ends, and blank lines are empty there."""
    expected = [one.text for one in pages(WIKITEXT).texts]
    assert len(expected) == 40 and all(page.startswith(" = ") for page in expected)
    text = WIKITEXT.read_text(encoding="utf-8")
    rows = [line if line.strip() else "" for line in text.splitlines(keepends=True)]
    parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "rows.parquet")
    assert [one.text for one in pages(tmp_path / "rows.parquet").texts] == expected
    written(tmp_path / "pages.jsonl", "".join(json.dumps({"page": page}) + "\n" for page in expected))
    assert [one.text for one in pages(tmp_path / "pages.jsonl").texts] == expected
    assert "\n".join(expected) + "\n" == text


def test_only_headings_of_the_first_level_begin_a_page(tmp_path: Path) -> None:
    text = " \n = One = \n a \n = = Part = = \n b \n = Two = \n c = d \n"
    found = pages(written(tmp_path / "a.txt", text))
    assert [one.text for one in found.texts] == [" = One = \n a \n = = Part = = \n b ", " = Two = \n c = d "]
    assert [one.line for one in found.texts] == [2, 6]
    assert [one.text for one in pages(written(tmp_path / "b.txt", "no heading\nat all\n")).texts] == [
        "no heading\nat all"
    ]


def test_an_empty_page_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: the page is empty"):
        pages(written(tmp_path / "a.jsonl", '{"page": "x"}\n{"page": ""}\n'))
