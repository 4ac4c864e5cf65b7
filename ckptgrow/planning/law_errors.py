"""How uncertain a fitted law's constants are, where neighbouring evaluations are alike, by two bootstraps.

Evaluations of one run are correlated: by the noise of training, and by what the law's form does not describe. As if
they were independent, errors come out too small.

`blocks`: the residuals of each curve are drawn again in blocks of neighbours, around the fitted law, and the law is
fitted anew. With the residuals' correlation r between neighbours, corrected for its bias in short series, blocks have
the length that is best for a mean of a first-order process, (3/2)^(1/3) · (2r / (1 − r²))^(2/3) · n^(1/3). Blocks of
length b miss what is correlated farther: they see Σ_k (1 − |k|/b) r^|k| in place of Σ_k r^|k|, so that residuals are
made larger by the root of the ratio. This tells how other runs of the same kind would differ.

`curves`: whole curves are drawn again, with all that their runs have of their own (initial values, order of data,
rate). It takes several more curves than the law has sizes to tell apart.

Source: Künsch, Annals of Statistics 17, 1989, for blocks; Politis and White, Econometric Reviews 23, 2004, with
Patton's correction, ibid. 28, 2009, for their length; Marriott and Pope, Biometrika 41, 1954, for the bias of r;
Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008, for whole groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptgrow.choices import Resampling
from ckptgrow.errors import RequestError
from ckptgrow.planning.fitting import Fit, fewest_sizes, law_with
from ckptgrow.planning.law_regression import CONSTANTS
from ckptgrow.planning.laws import Law
from ckptgrow.planning.uncertainty import QUANTILES, RESAMPLES, in_blocks

Vector = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
MORE_CURVES = 3  # than sizes that determine a law, for a bootstrap of whole curves
LARGEST_CORRELATION = 0.95  # between neighbours
LARGEST_BLOCK = 1 / 3  # of a curve


@dataclass(frozen=True, kw_only=True)
class LawErrors:
    """Standard errors, intervals of 90 %, and the laws of the resamples.

    `block`: evaluations in a block, one number a curve; empty for whole curves.
    """

    resampling: Resampling
    seed: int
    block: tuple[int, ...]
    standard_errors: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    laws: tuple[Law, ...]

    def undetermined(self, law: Law) -> tuple[str, ...]:
        """The constants that are as uncertain as they are large."""
        return tuple(name for name, error in self.standard_errors.items() if error >= abs(getattr(law, name)))


def law_errors(found: Fit, resampling: Resampling, seed: int) -> LawErrors:
    """Fits the law to resampled curves; the same seed gives the same errors.

    Raises RequestError for whole curves that are too few.
    """
    form = found.regression.form
    generator = np.random.default_rng(seed)
    spans = _spans(found.points.curves)
    correlation = correlation_of_neighbours(found, spans)
    blocks = () if resampling == "curves" else tuple(block_length(correlation, len(one)) for one in spans)
    draws = (
        _blocks(found, spans, correlation, generator)
        if resampling == "blocks"
        else _whole_curves(found, spans, generator)
    )
    values = np.array(list(draws))
    low, high = np.quantile(values, QUANTILES, axis=0)
    names = CONSTANTS[form]
    return LawErrors(
        resampling=resampling,
        seed=seed,
        block=blocks,
        standard_errors=dict(zip(names, map(float, values.std(axis=0, ddof=1)), strict=True)),
        intervals={name: (float(one), float(other)) for name, one, other in zip(names, low, high, strict=True)},
        laws=tuple(law_with(one, found.points, form, found.law.name) for one in values),
    )


def correlation_of_neighbours(found: Fit, spans: list[Places]) -> float:
    """The correlation of neighbouring residuals over all curves, from 0 on, corrected for its bias."""
    residuals, _ = found.regression.residuals(found.theta)
    products = sum(float(residuals[one[1:]] @ residuals[one[:-1]]) for one in spans)
    squares = sum(float(residuals[one] @ residuals[one]) * (len(one) - 1) / len(one) for one in spans)
    raw = products / squares if squares else 0.0
    mean_length = len(residuals) / len(spans)
    return min(max(raw + (1 + 3 * raw) / mean_length, 0.0), LARGEST_CORRELATION)


def block_length(correlation: float, num: int) -> int:
    """Evaluations in a block of a curve of `num`, at most a third of it."""
    factor = 1.5 ** (1 / 3) * (2 * correlation / (1 - correlation**2)) ** (2 / 3)
    return max(1, min(round(factor * num ** (1 / 3)), int(LARGEST_BLOCK * num)))


def missed_by_blocks(correlation: float, length: int) -> float:
    """The standard deviation of a mean over the one that blocks of a length show; 1 without correlation."""
    lags = np.arange(1, length)
    seen = 1 + 2 * float(((1 - lags / length) * correlation**lags).sum())
    return math.sqrt((1 + correlation) / (1 - correlation) / seen)


def _blocks(found: Fit, spans: list[Places], correlation: float, generator: np.random.Generator) -> Iterator[Vector]:
    regression, theta = found.regression, found.theta
    residuals, _ = regression.residuals(theta)
    fitted = regression.log_losses + residuals
    taken_out = math.sqrt(len(residuals) / max(1, len(residuals) - len(theta)))  # by the fit
    lengths = [block_length(correlation, len(one)) for one in spans]
    scale = taken_out * np.concatenate(
        [np.full(len(one), missed_by_blocks(correlation, length)) for one, length in zip(spans, lengths, strict=True)]
    )
    for _ in range(RESAMPLES):
        drawn = np.concatenate(
            [one[in_blocks(len(one), length, generator)] for one, length in zip(spans, lengths, strict=True)]
        )
        again = regression.with_losses(fitted - scale * residuals[drawn])
        yield regression.natural(again.best_near(theta))[0]


def _whole_curves(found: Fit, spans: list[Places], generator: np.random.Generator) -> Iterator[Vector]:
    needed = fewest_sizes(found.regression.form)
    if len(spans) < needed + MORE_CURVES:
        raise RequestError(
            f"⟦errors curves⟧: {len(spans)} curves, expected at least {needed + MORE_CURVES} to draw from; use "
            "⟦errors blocks⟧"
        )
    sizes = np.array([found.points.sizes[one[0]] for one in spans])
    for _ in range(RESAMPLES):
        picked = generator.integers(0, len(spans), len(spans))
        while len(np.unique(sizes[picked])) < needed:
            picked = generator.integers(0, len(spans), len(spans))
        again = found.regression.at(np.concatenate([spans[one] for one in picked]))
        yield found.regression.natural(again.best_near(found.theta))[0]


def _spans(curves: Places) -> list[Places]:
    """The places of each curve's points."""
    return [np.flatnonzero(curves == one) for one in np.unique(curves)]
