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

    The first case of a number of ranks runs together with all others of the module's SHARED cases that have as many:
    to start ranks takes longer than a few steps. A case that is not among them has ranks of its own.
    """
    shared: Sequence[Case] = getattr(request.module, "SHARED", ())
    found: dict[str, Curve | str] = {}

    def curve_of(case: Case) -> Curve:
        if repr(case) not in found:
            size = case.layout.world_size
            cases = [other for other in shared if other.layout.world_size == size] if case in shared else [case]
            per_rank = ranks(size, workers.curves, cases, timeout_s=600.0)
            assert all(curves == per_rank[0] for curves in per_rank), "ranks report different curves"
            found.update(zip(map(repr, cases), per_rank[0], strict=True))
        curve = found[repr(case)]
        assert not isinstance(curve, str), curve
        return curve

    return curve_of
