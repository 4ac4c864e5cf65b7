"""How large grown weights are compared with the old ones, for optimizers that scale updates by the weights' size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptgrow.growth.lineage import Descent
from ckptgrow.growth.tensors.grown_tensors import root_mean_square
from ckptgrow.storage.tensors import LazyTensor, num_elements


@dataclass(frozen=True, eq=False)
class WeightSizes:
    """The old and the grown weights by name; a weight is only read when its size is asked for."""

    old: Mapping[str, LazyTensor]
    new: Mapping[str, LazyTensor]
    _known: dict[str, float] = field(default_factory=dict[str, float])

    def norms(self, one: Descent) -> tuple[float, float]:
        """The old and the new Euclidean norm."""
        both = self.old[one.old.name], self.new[one.name]
        old, new = (root_mean_square(weight) * math.sqrt(num_elements(weight)) for weight in both)
        return old, new

    def ratio(self, one: Descent) -> float:
        """The new root mean square over the old one; 1 where nothing grew or the old weight is zero."""
        if one.growth.is_identity and one.share == 1:
            return 1.0
        if one.name not in self._known:
            old = root_mean_square(self.old[one.old.name])
            self._known[one.name] = root_mean_square(self.new[one.name]) / old if old > 0 else 1.0
        return self._known[one.name]
