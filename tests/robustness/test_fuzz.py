"""Random flips and cuts in every kind: never a traceback, never two lines, never success where the end is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.damage import KINDS, Damage, consequence, originals

shares = st.floats(0, 1, exclude_max=True)
heads = st.floats(0, 0.05)  # headers lie there
flips = st.lists(st.tuples(st.one_of(shares, heads), st.integers(1, 255)), max_size=4).map(tuple)
quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")


@pytest.fixture(scope="module")
def whole_ones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
@quick
@given(file=st.integers(0, 50), changes=flips, kept=st.one_of(st.just(1.0), shares))
def test_damage_of_any_kind_ends_in_success_or_one_line(
    whole_ones: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    file: int,
    changes: object,
    kept: float,
) -> None:
    damage = Damage(file, changes, kept)  # type: ignore[arg-type]
    code, errors = consequence(whole_ones[kind], damage, tmp_path_factory.mktemp("damaged"))
    assert code in (0, 2)
    if code == 2:
        assert len(errors.strip().splitlines()) == 1 and errors.startswith("ckptgrow: "), errors
    if kept < 1 and kind == "lightning":
        assert code == 2
