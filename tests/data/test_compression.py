"""Compressed files are whole or refused: cut anywhere, damaged anywhere, read by any number of workers."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptgrow.cli import run
from ckptgrow.data.compression import opened
from ckptgrow.errors import DataError

RANDOM = random.Random(0)
LINES = [f'{{"text": "line {number} {RANDOM.getrandbits(64):x}"}}' for number in range(400)]
CONTENT = "\n".join(LINES).encode()
HALF = len(CONTENT) // 2


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd}
SKIPPABLE = bytes.fromhex("502a4d18") + (4).to_bytes(4, "little") + b"abcd"  # a zstd frame without content


def read(path: Path) -> bytes:
    with opened(path) as file:
        return file.read()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("upper", [False, True])
def test_whole_files_of_one_or_more_members_are_read(tmp_path: Path, suffix: str, upper: bool) -> None:
    compress = COMPRESS[suffix]
    path = tmp_path / f"a.txt{suffix.upper() if upper else suffix}"
    for content in (b"", b"x", CONTENT, CONTENT * 300):
        path.write_bytes(compress(content))
        assert read(path) == content
    path.write_bytes(compress(CONTENT[:HALF]) + compress(b"") + compress(CONTENT[HALF:]))
    assert read(path) == CONTENT


def test_padding_after_gzip_and_skippable_frames_of_zstd_are_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT) + bytes(1000) + gzip.compress(b"more") + bytes(3))
    assert read(tmp_path / "a.gz") == CONTENT + b"more"
    (tmp_path / "a.zst").write_bytes(SKIPPABLE + zstd(CONTENT) + SKIPPABLE + zstd(b"more"))
    assert read(tmp_path / "a.zst") == CONTENT + b"more"


@pytest.mark.parametrize("suffix", COMPRESS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_cut_inside_a_member_is_refused(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    first, second = (COMPRESS[suffix](part) for part in (CONTENT[:HALF], CONTENT[HALF:]))
    whole = first + second
    cut = data.draw(st.integers(0, len(whole) - 1).filter(lambda size: size != len(first)))
    path = tmp_path / f"cut.jsonl{suffix}"
    path.write_bytes(whole[:cut])
    with pytest.raises(DataError, match=rf"cut\.jsonl\{suffix}: is cut short"):
        read(path)


@pytest.mark.parametrize("suffix", COMPRESS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    """Bytes of a header that nobody needs (gzip's time) may be anything."""
    whole = bytearray(COMPRESS[suffix](CONTENT))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(whole)
    try:
        assert read(path) == CONTENT
    except DataError as error:
        assert str(path) in str(error)


DAMAGED: dict[str, bytes] = {
    "cut.jsonl.gz": gzip.compress(CONTENT)[:-4],
    "cut.txt.gz": gzip.compress(CONTENT)[: len(CONTENT) // 4],
    "cut.jsonl.zst": zstd(CONTENT)[:-1],
    "cut.txt.zst": zstd(CONTENT * 50)[:-300],
    "empty.txt.gz": b"",
    "checksum.txt.zst": zstd(CONTENT)[:-4] + bytes(4),
    "checksum.txt.gz": gzip.compress(CONTENT)[:-8] + bytes(4) + gzip.compress(CONTENT)[-4:],
    "no.txt.gz": b"this is not a gzip file\n",
    "no.jsonl.zst": b'{"text": "this is not a zstd file"}\n',
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize(
    "options", [["--tokenizer=bytes"], ["--tokenizer=bytes", "--documents", "files"], ["--train-tokenizer", "300"]]
)
def test_the_command_names_a_damaged_file_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: list[str]
) -> None:
    (tmp_path / name).write_bytes(DAMAGED[name])
    assert run(["data", str(tmp_path / name), str(tmp_path / "new" / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{tmp_path / name}: is " in error and "copy it again" in error
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_workers_name_a_damaged_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cut.txt.gz", "cut.txt.zst"):
        (tmp_path / name).write_bytes(DAMAGED[name])
    assert run(["data", str(tmp_path / "cut*"), str(tmp_path / "out"), "--workers", "2", "--tokenizer=bytes"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is cut short" in error and not (tmp_path / "out").exists()


def test_prepared_data_survive_a_preparation_that_fails(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "cut.txt.gz").write_bytes(DAMAGED["cut.txt.gz"])
    out = tmp_path / "out"
    assert run(["data", str(tmp_path / "a.txt"), str(out), "--train-tokenizer", "300"]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(["data", str(tmp_path), str(out), "--force", "--train-tokenizer", "280"]) == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
