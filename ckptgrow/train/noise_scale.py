"""The gradient noise scale: the batch size beyond which larger batches save few steps.

With the squared norms of gradients of a small and a big batch,

    |G|² = (B_big·|G_big|² − B_small·|G_small|²) / (B_big − B_small)
    S    = (|G_small|² − |G_big|²) / (1/B_small − 1/B_big)
    B    = S / |G|²

|G|² and S are unbiased, but their ratio is not, so both are averaged first.

Source: McCandlish et al., "An Empirical Model of Large-Batch Training", arXiv 1812.06162, appendix A.1.
"""

from __future__ import annotations

from dataclasses import dataclass

DECAY = 0.95  # of the moving averages


@dataclass
class NoiseScale:
    """Moving averages of |G|² and S over steps."""

    squared_gradient: float = 0.0
    variance: float = 0.0
    weight: float = 0.0

    def update(self, small: float, big: float, small_batch: float, big_batch: float) -> float | None:
        """Adds the squared norms of two gradients, and their batch sizes in sequences.

        Returns the noise scale in sequences; None where it is not known yet.
        """
        if big_batch <= small_batch:
            return None
        squared = (big_batch * big - small_batch * small) / (big_batch - small_batch)
        variance = (small - big) / (1 / small_batch - 1 / big_batch)
        self.squared_gradient = DECAY * self.squared_gradient + (1 - DECAY) * squared
        self.variance = DECAY * self.variance + (1 - DECAY) * variance
        self.weight = DECAY * self.weight + (1 - DECAY)
        return self.variance / self.squared_gradient if self.squared_gradient > 0 else None
