"""A tensor's growth in five numbers, which exist only if all entries of the tensor need the same learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ckptgrow.errors import RequestError
from ckptgrow.spaces.gather import TensorGrowth
from ckptgrow.spaces.growth import FloatVector, Growth, IntVector


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The write factors f, read factors b and numbers of copies n of a tensor's outputs and inputs.

    `learning_rates` says what follows from them.
    """

    write_out: float
    read_out: float
    copies_out: float
    write_in: float
    copies_in: float

    @property
    def update(self) -> float:
        """The factor by which an entry's update must change for the same trajectory."""
        return self.write_out / (self.copies_in * self.write_in)

    @property
    def gradient(self) -> float:
        """The factor by which an entry's gradient changes."""
        return self.read_out * self.write_in

    @classmethod
    def of(cls, name: str, growth: TensorGrowth) -> Sides:
        """The five numbers of a tensor; raises RequestError where copies are uneven."""

        def one(role: str, vectors: Callable[[Growth], FloatVector | IntVector]) -> float:
            axes = [axis for axis in growth.axes if (axis.role == "in") == (role == "in")]
            values = [np.unique(vectors(axis.growth)) for axis in axes]
            if any(len(distinct) > 1 for distinct in values):
                raise RequestError(
                    f"⟦lr_rule mup⟧: {name} grows by uneven copies, so no single lr keeps its trajectory, expected a "
                    "whole multiple of the old size; use ⟦lr_rule keep⟧"
                )
            return math.prod(float(distinct[0]) for distinct in values)

        return cls(
            write_out=one("out", lambda space: space.write),
            read_out=one("out", lambda space: space.read),
            copies_out=one("out", lambda space: space.num_copies),
            write_in=one("in", lambda space: space.write),
            copies_in=one("in", lambda space: space.num_copies),
        )
