"""Training and going on training what was grown, on Lightning's public interface.

`parameter_groups` serves scripts that train in bare PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptgrow.train.groups import parameter_groups

__all__ = ["parameter_groups"]


def __getattr__(name: str) -> object:
    if name != "parameter_groups":
        raise AttributeError(f"module 'ckptgrow.train' has no attribute {name!r}")
    from ckptgrow.train.groups import parameter_groups

    return parameter_groups
