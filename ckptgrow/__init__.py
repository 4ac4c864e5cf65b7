"""Exact surgery on transformer training checkpoints: grow a whole training state, and prove that nothing was lost.

    import ckptgrow

    ckptgrow.width("small.ckpt", "grown.ckpt", factor=2)
    assert ckptgrow.verify("small.ckpt", "grown.ckpt").passed

Everything is imported when first used, so that `ckptgrow --help` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ckptgrow.version import __version__ as __version__

if TYPE_CHECKING:
    from ckptgrow.conversion.converting import Converted, convert
    from ckptgrow.errors import (
        CheckpointError,
        CkptgrowError,
        ClaimError,
        ConfigError,
        DataError,
        DivergedError,
        MissingDependencyError,
        OptimizerError,
        RequestError,
        UnsafePickleError,
    )
    from ckptgrow.growth.deepening import depth
    from ckptgrow.growth.lengthening import positions
    from ckptgrow.growth.request import GrowthResult, StateRequest
    from ckptgrow.growth.upcycling import experts
    from ckptgrow.growth.vocabulary import vocab
    from ckptgrow.growth.widening import width
    from ckptgrow.inspection import Inspection, inspect
    from ckptgrow.live.live_growth import LiveGrowth, grow
    from ckptgrow.live.rewarming import Rewarming
    from ckptgrow.train.lightning_growth import LightningGrowthCallback
    from ckptgrow.train.transformers_growth import TrainerGrowthCallback
    from ckptgrow.verification.comparison import verify
    from ckptgrow.verification.report import VerifyReport
    from ckptgrow.verification.verify_settings import VerifySettings

__all__ = [
    "CheckpointError",
    "CkptgrowError",
    "ClaimError",
    "ConfigError",
    "Converted",
    "DataError",
    "DivergedError",
    "GrowthResult",
    "Inspection",
    "LightningGrowthCallback",
    "LiveGrowth",
    "MissingDependencyError",
    "OptimizerError",
    "RequestError",
    "Rewarming",
    "StateRequest",
    "TrainerGrowthCallback",
    "UnsafePickleError",
    "VerifyReport",
    "VerifySettings",
    "convert",
    "depth",
    "experts",
    "grow",
    "inspect",
    "positions",
    "verify",
    "vocab",
    "width",
]

_HOMES = {
    "CheckpointError": "ckptgrow.errors",
    "CkptgrowError": "ckptgrow.errors",
    "ClaimError": "ckptgrow.errors",
    "ConfigError": "ckptgrow.errors",
    "DataError": "ckptgrow.errors",
    "DivergedError": "ckptgrow.errors",
    "MissingDependencyError": "ckptgrow.errors",
    "OptimizerError": "ckptgrow.errors",
    "RequestError": "ckptgrow.errors",
    "UnsafePickleError": "ckptgrow.errors",
    "Converted": "ckptgrow.conversion.converting",
    "convert": "ckptgrow.conversion.converting",
    "depth": "ckptgrow.growth.deepening",
    "positions": "ckptgrow.growth.lengthening",
    "experts": "ckptgrow.growth.upcycling",
    "vocab": "ckptgrow.growth.vocabulary",
    "GrowthResult": "ckptgrow.growth.request",
    "StateRequest": "ckptgrow.growth.request",
    "width": "ckptgrow.growth.widening",
    "Inspection": "ckptgrow.inspection",
    "inspect": "ckptgrow.inspection",
    "LiveGrowth": "ckptgrow.live.live_growth",
    "grow": "ckptgrow.live.live_growth",
    "Rewarming": "ckptgrow.live.rewarming",
    "LightningGrowthCallback": "ckptgrow.train.lightning_growth",
    "TrainerGrowthCallback": "ckptgrow.train.transformers_growth",
    "VerifyReport": "ckptgrow.verification.report",
    "VerifySettings": "ckptgrow.verification.verify_settings",
    "verify": "ckptgrow.verification.comparison",
}
_OLD_NAMES = {
    "Grown": "GrowthResult",
    "Settings": "VerifySettings",
    "Report": "VerifyReport",
}  # of 0.1, which stay until 0.3


_EACH_ITS_OWN = {
    "GrowthCallback": "LightningGrowthCallback for Lightning's Trainer and TrainerGrowthCallback for transformers'",
}  # what people look for, and what it is called here


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> object:
    name = _OLD_NAMES.get(name, name)
    if name not in _HOMES:
        here = f": there are {_EACH_ITS_OWN[name]}" if name in _EACH_ITS_OWN else ""
        raise AttributeError(f"module 'ckptgrow' has no attribute {name!r}{here}")
    return getattr(import_module(_HOMES[name]), name)
