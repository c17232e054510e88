"""Curves of many cases, which share one start of ranks."""

from collections.abc import Callable, Sequence

import pytest

from tests.conftest import RunOnRanks
from tests.parallel import workers
from tests.parallel.workers import Case, Curve

CurveOf = Callable[..., Curve]


@pytest.fixture(scope="module")
def curve_of(ranks: RunOnRanks, request: pytest.FixtureRequest) -> CurveOf:
    """curve_of(case): the curve of a case, the same on all ranks.

    The first case of a number of ranks runs together with all others of its list in the module's SHARED that have as
    many: to start ranks takes longer than a few steps. A case that is in none of the lists has ranks of its own.
    """
    shared: Sequence[Sequence[Case]] = getattr(request.module, "SHARED", ())
    found: dict[str, Curve | str] = {}

    def curve_of(case: Case) -> Curve:
        if repr(case) not in found:
            size = case.layout.world_size
            together = next((cases for cases in shared if case in cases), [case])
            cases = [other for other in together if other.layout.world_size == size]
            per_rank = ranks(size, workers.curves, cases, timeout_s=1800.0)
            assert all(curves == per_rank[0] for curves in per_rank), "ranks report different curves"
            found.update(zip(map(repr, cases), per_rank[0], strict=True))
        curve = found[repr(case)]
        assert not isinstance(curve, str), curve
        return curve

    return curve_of
