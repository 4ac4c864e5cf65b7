"""How exact a comparison can be, by the coarsest dtype that takes part in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Relative to the largest value of what is compared: a few hundred roundings of each dtype, which is what sums over
# thousands of terms in another order leave.
TOLERANCES = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# One rounding of a stored value, and the sum of two.
STORED_TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}


def rounding(dtype: torch.dtype) -> float:
    """The largest relative error of one rounding to nearest."""
    return torch.finfo(dtype).eps / 2


def smallest(dtype: torch.dtype) -> float:
    """The smallest positive number of a dtype; near zero, rounding changes a value by at most half of it."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The floating dtype with the largest rounding error; float64 where no dtype is a floating one."""
    floating = [dtype for dtype in dtypes if dtype in TOLERANCES]
    return max(floating, key=TOLERANCES.__getitem__, default=torch.float64)


class Float64Throughout(TorchFunctionMode):
    """Lets a float64 model compute in float64 even where its own code casts to float32.

    Most RMSNorms, softmaxes and rotary angles do so. Without the casts models can be compared to 1e-15 instead of 1e-7.
    Nothing else of the model changes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the torch function with float64 instead of float32."""
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        if func in (torch.tensor, torch.full) and any(isinstance(one, float) for one in args):
            kwargs = {"dtype": torch.float64, **(kwargs or {})}  # float64's smallest number is none of float32
        return func(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def computing_in(dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context in which a model of this dtype is run."""
    return Float64Throughout() if dtype == torch.float64 else nullcontext()


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
