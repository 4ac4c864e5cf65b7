"""One thread a test process, few walks of its garbage collector, no chatter, and cases drawn by CKPTGROW_SAMPLE."""

import gc
import os
import random
from collections import defaultdict

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of forked processes too

import hypothesis
import pytest
import torch
from transformers.utils import logging

pytest.register_assert_rewrite("tests.helpers")
torch.set_num_threads(1)
logging.set_verbosity_error()
gc.freeze()  # what these imports leave is not walked over again and again
gc.set_threshold(100_000)  # as in a command's process


def _is_derandomized(test: object) -> bool:
    return bool(getattr(getattr(test, "_hypothesis_internal_use_settings", None), "derandomize", False))


SAMPLE = os.environ.get("CKPTGROW_SAMPLE", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `sampled(n)`, n cases stay quick, drawn by the number CKPTGROW_SAMPLE; all others are slow.

    Hypothesis draws by the same number, but for tests that say by which they draw.
    """
    cases: defaultdict[tuple[str, int], list[pytest.Item]] = defaultdict(list)
    for item in items:
        test = getattr(item, "obj", None)
        if getattr(test, "is_hypothesis_test", False) and not _is_derandomized(test):
            hypothesis.seed(SAMPLE)(test)
        mark = item.get_closest_marker("sampled")
        if mark is not None and item.get_closest_marker("slow") is None:
            cases[item.nodeid.partition("[")[0], mark.args[0]].append(item)
    for (test, count), several in cases.items():
        draw = random.Random(f"{SAMPLE} {test}")
        for item in draw.sample(several, max(len(several) - count, 0)):
            item.add_marker(pytest.mark.slow)
