"""The laws' figures against the papers', and their derivatives against complex steps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

from ckptgrow.choices import OperatorName
from ckptgrow.planning import laws
from ckptgrow.planning.laws import LAWS, Law, unit_cost
from ckptgrow.planning.operators import GrowthStep, constants, growths, rho_at

SMALL = 1e-30  # a complex step has no cancellation, so it may be as small as this


def test_kaplans_law_is_the_papers_equation() -> None:
    loss = LAWS["kaplan"].loss(1e9, 1e4)
    assert loss == pytest.approx((6.5e13 / 1e9) ** 0.077 + (2.1e3 / 1e4) ** 0.76)
    assert LAWS["kaplan"].critical_batch(3.0) == pytest.approx(2.1e8 / 3.0 ** (1 / 0.21))


def test_hoffmanns_law_gives_the_loss_of_chinchilla() -> None:
    """1.69 + 406.4/(70e9)^0.34 + 410.7/(1.4e12)^0.28, worked out by hand to 1.937."""
    assert LAWS["hoffmann"].loss(70e9, 1.4e12) == pytest.approx(1.937, abs=5e-4)


def test_the_law_fitted_anew_wants_some_twenty_tokens_a_parameter() -> None:
    """As its authors find, and Chinchilla had: for its compute, over all sizes, by search."""
    compute = 5.76e23
    sizes = np.geomspace(1e10, 1e12, 4001)
    best = sizes[int(np.argmin(LAWS["besiroglu"].loss(sizes, compute / 6 / sizes)))]
    assert 15 < compute / 6 / best**2 < 30
    assert LAWS["besiroglu"].loss(70e9, 1.4e12) == pytest.approx(1.9739, abs=5e-5)


def test_sizes_that_no_fit_saw_are_extrapolations() -> None:
    known = LAWS["kaplan"]
    assert [known.extrapolates(size) for size in (500, 768, 1e9, 1.5e9, 2e9)] == [True, False, False, False, True]
    assert not replace(LAWS["kaplan"], smallest_fitted=None, largest_fitted=None).extrapolates(1e30)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_data_invert_the_loss(law: Law) -> None:
    assert law.data(3e8, law.loss(3e8, 12_345.0)) == pytest.approx(12_345.0)
    assert law.smallest_size(float(law.limit(3e8))) == pytest.approx(3e8)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("batch", [None, 5e5])
def test_derivatives_are_those_of_complex_steps(law: Law, batch: float | None) -> None:
    size, loss = 2e8, float(law.limit(2e8)) * 1.2
    unit = unit_cost(law, batch, loss)
    by_log_size = law.data(size * np.exp(1j * SMALL), loss).imag / SMALL
    by_loss = law.data(size, loss + 1j * SMALL).imag / SMALL
    assert law.data_by_log_size(size, loss) == pytest.approx(by_log_size, rel=1e-12)
    assert law.data_by_loss(size, loss) == pytest.approx(by_loss, rel=1e-12)
    price = laws.cost(law, loss + 1j * SMALL, unit).imag / SMALL
    assert laws.cost_by_loss(law, loss, unit) == pytest.approx(price, rel=1e-12, abs=1e-12)
    log_compute = np.log(laws.compute_to(law, size, loss * np.exp(1j * SMALL), unit)).imag / SMALL
    assert laws.slope(law, size, loss, unit) == pytest.approx(1 / log_compute, rel=1e-12)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_efficient_loss_is_where_no_other_size_needs_less_compute(law: Law) -> None:
    loss = float(law.efficient_loss(1e9))
    sizes = 1e9 * np.geomspace(0.5, 2.0, 2001)
    compute = laws.compute_to(law, sizes, loss, unit_cost(law, 5e5, loss))
    assert sizes[int(np.argmin(compute))] == pytest.approx(1e9, rel=1e-3)


def test_the_slope_at_the_efficient_loss_is_the_papers_optimality() -> None:
    """−0.052, found by hand there: −1/(1/α_N + 1/α_S + 1/α_B) by Kaplan et al., equation 6.1."""
    law = LAWS["staged-training"]
    found = laws.slope(law, 1e8, law.efficient_loss(1e8), None)
    assert found == pytest.approx(-1 / (1 / 0.076 + 1 / 0.76 + 1 / 0.21), rel=1e-9)
    assert found == pytest.approx(-0.052, abs=5e-5)


@pytest.mark.parametrize(("operator", "rho"), [("depth", 1.831), ("width", 2.717)])
@pytest.mark.parametrize("large", [1e8, 1e10])
def test_rho_at_the_notebooks_threshold_is_the_notebooks(operator: OperatorName, rho: float, large: float) -> None:
    """Both of its simulated figures come out at −0.0475, for any size."""
    law, growth = LAWS["staged-training"], GrowthStep(operator, 2)
    small = large / growth.ratio
    limit = float(law.limit(small))
    above = brentq(lambda one: laws.slope(law, small, limit + math.exp(one), None) + 0.0475, -20.0, 0.5)
    assert rho_at(law, growth, large, limit + math.exp(above)) == pytest.approx(rho, abs=1.1e-3)


@pytest.mark.parametrize(
    ("operator", "notebook", "away"), [("depth", -0.0575, 0.0025), ("width", -0.0475, 0.005), ("both", -0.03, 0.015)]
)
def test_thresholds_from_the_law_are_near_those_found_by_hand(
    operator: OperatorName, notebook: float, away: float
) -> None:
    found = [constants(LAWS["staged-training"], GrowthStep(operator, 2), large, None) for large in (1e8, 1e10)]
    assert found[0].tau == pytest.approx(found[1].tau, rel=1e-6)  # whatever the size
    assert found[0].tau == pytest.approx(notebook, abs=away) and found[0].tau < notebook


@pytest.mark.parametrize("operator", ["depth", "width", "both"])
def test_the_threshold_saves_most(operator: OperatorName) -> None:
    law, growth, large = LAWS["kaplan"], GrowthStep(operator, 2), 1e9
    found = constants(law, growth, large, None)
    limit = float(law.limit(large / growth.ratio))
    losses = limit + np.geomspace(1e-3, 2.0, 20_001)
    saved = laws.compute_to(law, large, losses, None) - laws.compute_to(law, large / growth.ratio, losses, None)
    alone = laws.compute_to(law, large, law.efficient_loss(large), None)
    assert found.loss == pytest.approx(losses[int(np.argmax(saved))], rel=1e-3)
    assert found.saving == pytest.approx(saved.max() / alone, rel=1e-6)


def test_of_growths_with_the_same_ratio_the_first_is_kept() -> None:
    found = growths(("width", "depth"), 4)
    assert [(one.operator, one.factor, one.ratio) for one in found] == [
        ("depth", 2, 2),
        ("depth", 3, 3),
        ("width", 2, 4),
        ("width", 3, 9),
        ("width", 4, 16),
    ]
