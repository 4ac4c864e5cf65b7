"""Silences lm-eval, datasets and transformers, which print, log and draw bars wherever they run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "transformers", "accelerate")


@contextmanager
def quiet() -> Generator[None]:
    """Keeps what other libraries print, log and warn away from both streams; errors are raised as usual."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nothing,
            redirect_stdout(nothing),
            redirect_stderr(nothing),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
