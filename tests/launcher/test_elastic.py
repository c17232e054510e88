"""An elastic run has the largest data-parallel size for which there are ranks, of those that can run at all."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs.launching import LaunchConfig
from foretrain.configs.schema import Config, ParallelConfig, TrainConfig
from foretrain.launcher.elastic import Sizes, elastic_sizes
from foretrain.parallel.layout import Layout, check

RANGES = st.tuples(st.integers(1, 12), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
SIZES = st.builds(
    Sizes,
    st.lists(st.integers(1, 50), min_size=1, unique=True).map(lambda sizes: tuple(sorted(sizes))),
    st.integers(1, 8),
)


def config(elastic: str, batch: int = 24, micro_batch: int = 1, **parallel: object) -> Config:
    train = TrainConfig(global_batch_size=batch, micro_batch_size=micro_batch)
    return replace(
        Config(),
        launch=LaunchConfig(elastic=elastic),
        train=train,
        parallel=ParallelConfig(**parallel),  # type: ignore[arg-type]
    )


@given(named=RANGES, batch=st.integers(1, 12), micro_batch=st.integers(1, 3))
def test_the_sizes_are_those_that_divide_the_batch(named: tuple[int, int], batch: int, micro_batch: int) -> None:
    batch *= micro_batch
    fitting = [size for size in range(named[0], named[1] + 1) if batch % (size * micro_batch) == 0]
    asked = config(f"{named[0]}:{named[1]}", batch, micro_batch)
    if not fitting:
        with pytest.raises(ValueError, match="names no data-parallel size that can run"):
            elastic_sizes(asked)
        return
    found = elastic_sizes(asked)
    assert found is not None
    assert list(found.allowed) == fitting
    for size in found.allowed:
        check(Layout(dp=size), asked.model, asked.train)


def test_a_size_that_leaves_too_few_micro_batches_for_the_pipeline_is_left_out() -> None:
    found = elastic_sizes(config("1:8", batch=8, pp=4))
    assert found == Sizes((1, 2), ranks_per_replica=4)
    assert found.max_ranks == 8


@given(sizes=SIZES, num_ranks=st.integers(0, 500))
def test_a_start_has_the_largest_size_for_which_there_are_ranks(sizes: Sizes, num_ranks: int) -> None:
    size = sizes.largest(num_ranks)
    fitting = [each for each in sizes.allowed if each * sizes.ranks_per_replica <= num_ranks]
    assert size == (fitting[-1] if fitting else None)


@given(sizes=SIZES)
def test_sizes_that_are_given_up_one_by_one_are_all_tried_from_the_largest_on(sizes: Sizes) -> None:
    tried: list[int] = []
    left: Sizes | None = sizes
    while left is not None:
        tried.append(left.allowed[-1])
        left = left.below(tried[-1])
    assert tuple(reversed(tried)) == sizes.allowed


@given(sizes=SIZES, ranks_per_node=st.integers(1, 8))
def test_the_numbers_of_nodes_are_those_that_sizes_fill(sizes: Sizes, ranks_per_node: int) -> None:
    filling = [size for size in sizes.allowed if size * sizes.ranks_per_replica % ranks_per_node == 0]
    if not filling:
        with pytest.raises(ValueError, match="no data-parallel size of"):
            sizes.nodes(ranks_per_node)
        return
    nodes = sizes.nodes(ranks_per_node)
    assert [number * ranks_per_node for number in nodes] == [size * sizes.ranks_per_replica for size in filling]


@given(sizes=SIZES)
def test_sizes_are_read_back_from_a_command_line(sizes: Sizes) -> None:
    assert Sizes.parse(str(sizes)) == sizes


def test_a_run_without_the_setting_is_not_elastic() -> None:
    assert elastic_sizes(Config()) is None


def test_a_size_that_the_config_fixes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parallel\.dp = 2 sets it: set parallel\.dp=null"):
        elastic_sizes(config("1:4", dp=2))


@pytest.mark.parametrize("text", ["", "4", "0:4", "4:2", "1:-4", "a:b", "1:2:3", "1:4 "])
def test_what_is_not_a_range_of_sizes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be MIN:MAX"):
        LaunchConfig(elastic=text)
