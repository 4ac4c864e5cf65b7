"""One thread a test process, few walks of its garbage collector, and no chatter."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of forked processes too

import pytest
import torch
from transformers.utils import logging

pytest.register_assert_rewrite("tests.helpers")
torch.set_num_threads(1)
logging.set_verbosity_error()
gc.freeze()  # what these imports leave is not walked over again and again
gc.set_threshold(100_000)  # as in a command's process
