"""ρ: optimizer steps before a growth over those that lead the grown model from scratch to the same loss.

Source: Shen et al., "Staged Training for Transformer Language Models", arXiv 2203.06211, table 3; 1 where nothing is
known of steps saved.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.choices import GrowthOperator

RHO: Mapping[GrowthOperator, float] = {"width": 1.776, "depth": 1.412, "vocab": 1.0, "positions": 1.0, "experts": 1.0}
