"""Checks that the packages of the `eval` extra are installed, before anything is read."""

from __future__ import annotations

from importlib.util import find_spec

from ckptgrow.errors import MissingDependencyError, listing


def require(*packages: str) -> None:
    """Raises MissingDependencyError where one of them is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"evaluation needs {listing(missing)}, not installed here; pip install 'ckptgrow[eval]'"
        )


def require_harness() -> None:
    """Raises MissingDependencyError where lm-eval, or what it computes with, is not installed."""
    require("lm_eval", "accelerate", "datasets")
