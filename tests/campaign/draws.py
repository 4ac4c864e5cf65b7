"""Every kind of draw by name, and how one is carried out."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers.utils import logging

from tests.campaign import formats, growth, schedules, tampering, verification
from tests.campaign.outcome import FindingError, Outcome, RefusedError, Verdict

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

Try = Callable[[int, Path, dict[str, Any]], None]
KINDS: Mapping[str, Try] = {
    "growth": growth.tried,
    "schedules": schedules.tried,
    "verify": verification.tried,
    "tamper": tampering.tried,
    "formats": formats.tried,
}


def outcome(kind: str, seed: int) -> Outcome:
    """Carries out one draw in a directory of its own."""
    told: dict[str, Any] = {}
    directory, began = Path(tempfile.mkdtemp(prefix="campaign-")), time.monotonic()
    verdict: Verdict = "right"
    what = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            KINDS[kind](seed, directory, told)
    except FindingError as finding:
        verdict, what = "finding", str(finding)
    except RefusedError as refused:
        verdict, what = "refused", str(refused)
    except Exception:
        verdict, what = "error", " ".join(traceback.format_exc().split())[-900:]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Outcome(kind, seed, verdict, what, told, round(time.monotonic() - began, 3))
