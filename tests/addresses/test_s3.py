"""Growth on a server that speaks S3, where pip has installed one and its client (`pip install s3fs 'moto[server]'`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptgrow
from ckptgrow.addresses import remote_files
from ckptgrow.addresses.stand_ins import fetched_whole
from tests.helpers.paths import ROOT

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
FIXTURE = ROOT / "fixtures" / "gpt2-tiny.ckpt"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an empty bucket on a server of its own."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.mark.parametrize("kind", ["lightning", "huggingface"])
def test_a_state_grows_from_s3_to_s3_as_it_does_on_the_disk(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(remote_files, "WHOLE", 0)
    small = tmp_path / "small"
    ckptgrow.convert(FIXTURE, small, kind)
    remote_files.put(small, f"{bucket}/{kind}/small")
    ckptgrow.width(f"{bucket}/{kind}/small", f"{bucket}/{kind}/grown", factor=2)
    ckptgrow.width(small, tmp_path / "grown", factor=2)
    assert ckptgrow.verify(f"{bucket}/{kind}/small", f"{bucket}/{kind}/grown").passed
    there, here = remote_files.standing_in(f"{bucket}/{kind}/grown"), tmp_path / "grown"
    files = [one.relative_to(here) for one in [here, *here.rglob("*")] if one.is_file()]
    assert files
    for name in files:
        assert fetched_whole(there / name).read_bytes() == (here / name).read_bytes()


def test_a_growth_that_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path, bucket: str) -> None:
    program = (
        "import os, signal; import s3fs, ckptgrow\n"
        "put, names = s3fs.S3FileSystem.put_file, []\n"
        "def killed(self, source, target, **options):\n"
        "    names.append(target)\n"
        "    if len(names) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return put(self, source, target, **options)\n"
        "s3fs.S3FileSystem.put_file = killed\n"
        f"ckptgrow.width({str(tmp_path / 'small')!r}, {bucket + '/grown'!r}, factor=2)\n"
    )
    ckptgrow.convert(FIXTURE, tmp_path / "small", "huggingface")
    done = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(ckptgrow.CheckpointError, match="is not a checkpoint"):
        ckptgrow.inspect(f"{bucket}/grown")
