"""Which checkpoints a run keeps."""

from dataclasses import dataclass
from math import isnan

from hypothesis import example, given
from hypothesis import strategies as st

from foretrain.trainer.checkpoint.retention import Retention


@dataclass(frozen=True)
class Case:
    """What `Retention` is made of, and what `superseded` is called with."""

    steps: frozenset[int]
    losses: dict[int, float]
    keep: int
    every: int
    best: int

    @property
    def removed(self) -> list[int]:
        """The steps whose checkpoints are removed."""
        return Retention(self.keep, self.every, self.best).superseded(self.steps, self.losses)

    @property
    def kept(self) -> frozenset[int]:
        """The other steps."""
        return self.steps - set(self.removed)


CASES = st.builds(
    Case,
    steps=st.frozensets(st.integers(0, 15), max_size=12),
    losses=st.dictionaries(st.integers(0, 15), st.sampled_from([1.0, 2.0, 3.0, float("inf"), float("nan")])),
    keep=st.integers(0, 5),
    every=st.integers(0, 10),
    best=st.integers(0, 4),
)
"""Steps without a loss, losses of steps without a checkpoint, equal losses and NaN are among them."""


@given(CASES)
def test_the_newest_checkpoints_are_kept(case: Case) -> None:
    assert set(sorted(case.steps)[-max(1, case.keep) :]) <= case.kept


@given(CASES)
@example(Case(frozenset(range(5)), {0: 2.0, 1: float("nan"), 2: 1.0, 3: 3.0}, keep=1, every=0, best=1))
def test_the_checkpoints_with_the_least_loss_are_kept(case: Case) -> None:
    known = {step: loss for step, loss in case.losses.items() if step in case.steps and not isnan(loss)}
    for step, loss in known.items():
        better = [other for other in known if (known[other], other) < (loss, step)]
        assert step in case.kept or len(better) >= case.best


@given(CASES)
def test_the_checkpoints_at_multiples_of_every_are_kept(case: Case) -> None:
    assert {step for step in case.steps if case.every and step % case.every == 0} <= case.kept


@given(CASES)
def test_no_more_are_kept_than_was_asked_for(case: Case) -> None:
    at_multiples = [step for step in case.kept if case.every and step % case.every == 0]
    assert not case.keep or len(case.kept) <= case.keep + case.best + len(at_multiples)


@given(CASES)
def test_a_keep_of_zero_removes_nothing(case: Case) -> None:
    assert Retention(0, case.every, case.best).superseded(case.steps, case.losses) == []


@given(CASES)
def test_removed_are_checkpoints_that_exist_oldest_first(case: Case) -> None:
    assert case.removed == sorted(set(case.removed) & case.steps)


@given(CASES)
def test_a_second_look_removes_no_more(case: Case) -> None:
    assert Retention(case.keep, case.every, case.best).superseded(case.kept, case.losses) == []


@given(CASES, st.integers(1, 10))
def test_the_checkpoint_to_which_a_rollback_goes_is_kept(case: Case, every: int) -> None:
    retention = Retention(case.keep, case.every, case.best, rollback_every=every)
    regular = [step for step in case.steps if step % every == 0]
    if case.steps:
        target = retention.rollback_target(case.steps)
        assert target == (max(regular) if regular else max(case.steps))
        assert target not in retention.superseded(case.steps, case.losses)


@given(
    st.builds(
        Retention,
        newest=st.integers(0, 4),
        every=st.integers(0, 6),
        best=st.integers(0, 3),
        rollback_every=st.integers(0, 5),
    ),
    st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=20),
)
def test_there_are_never_more_checkpoints_than_are_foreseen(retention: Retention, losses: list[float]) -> None:
    loss_of = dict(enumerate(losses, 1))
    there: set[int] = set()
    for step in loss_of:
        there.add(step)
        assert len(there) <= retention.most([*loss_of])
        there -= {*retention.superseded(there, {each: loss_of[each] for each in there})}
