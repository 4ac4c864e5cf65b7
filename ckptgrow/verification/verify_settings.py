"""What is asked of a verification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ckptgrow.choices import VerifyDevice, VerifyDtype, VerifyLevel


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """How to compare: at a `level`, `batches` of 2 sequences each, `steps` optimizer steps, in `dtype` on `device`.

    `level`: see `levels`; None: "full" where memory allows, else "function". `tokens`: a file of token ids to compare
    on; without it they are drawn at random.
    """

    level: VerifyLevel | None = None
    tokens: Path | None = None
    batches: int = 4
    steps: int = 0
    dtype: VerifyDtype = "float64"
    device: VerifyDevice = "cpu"
