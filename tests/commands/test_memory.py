"""Tensors that come and go get the memory of those that went, by the kernel's own count of pages."""

from __future__ import annotations

import subprocess
import sys

PAGES_OF_TEN_TENSORS = 10 * 2**26 // 4096
SCRIPT = """
import resource, sys
if "reuse" in sys.argv:
    from ckptgrow.commands._memory import reuse_memory
    reuse_memory()
import torch
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_ten_tensors_one_after_the_other_need_no_pages_of_their_own() -> None:
    line = [sys.executable, "-c", SCRIPT, "reuse"]
    faults = int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    assert faults < PAGES_OF_TEN_TENSORS / 10  # more than 1 % where memory is too scattered for huge pages
