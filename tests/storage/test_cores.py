"""How many threads a process keeps busy: by the cores that it may use, and by the processes that share them."""

from __future__ import annotations

import os

import pytest

from ckptgrow.storage import cores


@pytest.mark.parametrize(
    ("num_cores", "num_processes", "expected"), [(1, "", 2), (2, "", 3), (8, "4", 3), (4, "8", 2), (64, "", 16)]
)
def test_threads_follow_the_cores_that_a_process_may_use(
    monkeypatch: pytest.MonkeyPatch, num_cores: int, num_processes: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", num_processes)
    assert cores.threads_of_files() == expected
