"""Exact surgery on transformer training checkpoints: grow a whole training state, and prove that nothing was lost."""

from __future__ import annotations

__version__ = "0.1.0"
