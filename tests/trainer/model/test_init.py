"""Initial weights: a slice has the values of the full parameter, and a rank draws little more than its slice."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from foretrain.trainer.model import init
from foretrain.trainer.model.init import InitialWeights
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.model.spec import Param

DRAWN_BYTES = 64 << 20


def drawn(param: Param, seed: int = 0, rows: slice | None = None, columns: slice | None = None) -> Tensor:
    """A slice of the initial parameter, filled into memory that held something else."""
    rows = rows or slice(0, param.shape[0])
    shape = [rows.stop - rows.start, *param.shape[1:]]
    if columns is not None:
        shape[1] = columns.stop - columns.start
    out = torch.full(shape, torch.nan)
    init.fill(out, param, seed, rows, columns)
    return out


def matrix(num_rows: int, width: int, name: str = "w", std: float = 0.5) -> Param:
    return Param(name, ("ffn", "embed"), (num_rows, width), "hidden", std)


@contextmanager
def blocks_of(num_bytes: int, num_columns: int = 7, num_rows: int = 5) -> Iterator[None]:
    """Small tiles, so that small matrices cross them. (Hypothesis takes no fixture that lasts one example.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(init, "BLOCK_BYTES", num_bytes)
        patch.setattr(init, "TILE_COLUMNS", num_columns)
        patch.setattr(init, "TILE_ROWS", num_rows)
        yield


@st.composite
def slices(draw: st.DrawFn, size: int) -> slice:
    start, stop = sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size))))
    return slice(start, stop)


@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.integers(4, 2000))
def test_a_slice_is_the_same_slice_of_the_full_parameter_bitwise(
    data: st.DataObject, num_rows: int, width: int, block_bytes: int
) -> None:
    param = matrix(num_rows, width)
    rows, columns = data.draw(slices(num_rows)), data.draw(slices(width))
    with blocks_of(block_bytes):
        full = drawn(param)
        assert torch.equal(drawn(param, rows=rows), full[rows])
        assert torch.equal(drawn(param, rows=rows, columns=columns), full[rows, columns])


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 30), st.integers(4, 500), st.sampled_from([0, 1]))
def test_the_shards_of_all_tensor_parallel_ranks_are_the_full_parameter_bitwise(
    tp: int, part: int, other: int, block_bytes: int, dim: int
) -> None:
    param = matrix(tp * part, other) if dim == 0 else matrix(other, tp * part)
    shards = [slice(rank * part, (rank + 1) * part) for rank in range(tp)]
    with blocks_of(block_bytes):
        parts = [drawn(param, rows=shard) if dim == 0 else drawn(param, columns=shard) for shard in shards]
        assert torch.equal(torch.cat(parts, dim), drawn(param))


def test_the_comparison_sees_a_slice_that_is_one_row_off_and_a_draw_made_for_the_slice_alone() -> None:
    with blocks_of(2 * 4 * 8, num_rows=2):
        full = drawn(matrix(12, 8))
        assert not torch.equal(drawn(matrix(12, 8), rows=slice(3, 7)), full[4:8])
        assert not torch.equal(drawn(matrix(4, 8)), full[4:8])
    assert len(torch.unique(full)) == full.numel(), "tiles repeat each other"


@st.composite
def sharded_tensors(draw: st.DrawFn) -> tuple[list[ParamShard], nn.Parameter]:
    """Parameters that share a tensor, sharded over tensor-parallel ranks, below each other; then rows of padding."""
    tp_dim, num_ranks = draw(st.sampled_from([None, 0, 1])), draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 3)))]
    width, rank = draw(st.integers(1, 20)), draw(st.integers(0, num_ranks - 1))
    rows, columns = (num_ranks if tp_dim == dim else 1 for dim in (0, 1))
    tensor = nn.Parameter(torch.empty(sum(sizes) + draw(st.integers(0, 2)), width))
    tensor.tensor_model_parallel = tp_dim is not None  # type: ignore[attr-defined]
    shards, start = [], 0
    for size in sizes:
        axes = tuple("heads" if tp_dim == dim else "embed" for dim in (0, 1))
        param = Param(f"{start}", axes, (size * rows, width * columns), "hidden", 0.5)
        shards.append(ParamShard.of(param, tensor, slice(start, start + size), (rank, num_ranks)))
        start += size
    return shards, tensor


@given(st.data(), sharded_tensors(), st.integers(4, 500))
def test_a_flat_part_of_a_rank_s_tensor_has_the_values_of_the_parameters_that_share_it(
    data: st.DataObject, sharded: tuple[list[ParamShard], nn.Parameter], block_bytes: int
) -> None:
    shards, tensor = sharded
    flat = data.draw(slices(tensor.numel()))
    with blocks_of(block_bytes):
        expected = torch.zeros(tensor.shape)
        for shard in shards:
            columns = shard.span if shard.tp_dim == 1 else None
            expected[shard.rows] = drawn(shard.param, rows=slice(0, shard.param.shape[0]), columns=columns)[
                slice(None) if shard.tp_dim == 1 else shard.span
            ]
        found = torch.full((flat.stop - flat.start,), torch.nan)
        InitialWeights(shards, 0).fill(tensor, found, flat.start)
    assert torch.equal(found, expected.flatten()[flat])


def test_without_a_seed_all_values_are_0_and_none_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn", recorder := Recorder())
    tensor = nn.Parameter(torch.empty(4, 3))
    out = torch.full((12,), torch.nan)
    InitialWeights([ParamShard.of(matrix(4, 3), tensor, slice(0, 4))], None).fill(tensor, out)
    assert torch.equal(out, torch.zeros(12))
    assert not recorder.shapes


def test_constants_are_exact() -> None:
    assert torch.equal(drawn(Param("gain", ("embed",), (7,), "gain", fill=1.0)), torch.ones(7))
    assert torch.equal(drawn(Param("bias", ("ffn",), (7,), "bias"), rows=slice(2, 5)), torch.zeros(3))


def test_draws_are_normal_with_the_std_of_the_table() -> None:
    x = drawn(matrix(1000, 1000, std=0.02)).double() / 0.02
    count = x.numel()
    # Each bound is six standard errors of the moment of a normal law.
    assert abs(x.mean()) < 6 / count**0.5
    assert abs(x.std() - 1) < 6 / (2 * count) ** 0.5
    assert abs((x**3).mean()) < 6 * (15 / count) ** 0.5
    assert abs((x**4).mean() - 3) < 6 * (96 / count) ** 0.5
    neighbours = [(x[1:] * x[:-1]).mean(), (x[:, 1:] * x[:, :-1]).mean()]
    assert max(map(abs, neighbours)) < 6 / count**0.5


def test_blocks_names_and_seeds_are_independent() -> None:
    with blocks_of(4 * 100 * 100, num_columns=100):  # 100 rows
        draws = [drawn(matrix(100, 100, name), seed) for name in ("a", "b", "0a") for seed in (0, 1, 10)]
        draws += drawn(matrix(300, 100, "c")).split(100)
    correlation = torch.corrcoef(torch.stack([x.flatten() for x in draws]).double())
    assert (correlation - torch.eye(len(draws))).abs().max() < 6 / 100


def test_other_dtypes_hold_the_rounded_fp32_draw() -> None:
    param = matrix(9, 11)
    out = torch.empty(9, 11, dtype=torch.bfloat16)
    init.fill(out, param, 0, slice(0, 9))
    assert torch.equal(out, drawn(param).bfloat16())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    drawn(matrix(9, 11))
    assert torch.equal(torch.get_rng_state(), before)


class Recorder:
    """A replacement for torch.randn that records the shapes and draws nothing."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, num_rows: int, width: int, generator: torch.Generator) -> Tensor:
        self.shapes.append((num_rows, width))
        return torch.zeros(1).expand(num_rows, width)

    @property
    def num_elements(self) -> int:
        return sum(num_rows * width for num_rows, width in self.shapes)

    def check_each_draw(self) -> None:
        for num_rows, width in self.shapes:
            assert 2 * 4 * num_rows * width <= DRAWN_BYTES, "a draw, and the draw times std"


def test_a_rank_of_a_large_model_draws_only_the_blocks_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-3's embedding, 2.5 GB in all, at tp = 64."""
    monkeypatch.setattr(torch, "randn", recorder := Recorder())
    init.fill(torch.empty(786, 12288), matrix(50257, 12288), 0, slice(17 * 786, 18 * 786))
    recorder.check_each_draw()
    assert recorder.num_elements <= 12288 * (786 + 2 * init.TILE_ROWS)


def test_a_rank_of_a_large_model_draws_only_the_tiles_of_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-3's attention output, 0.6 GB in all, at tp = 64."""
    monkeypatch.setattr(torch, "randn", recorder := Recorder())
    init.fill(torch.empty(12288, 192), matrix(12288, 12288), 0, slice(0, 12288), slice(192, 384))
    recorder.check_each_draw()
    assert recorder.num_elements == 12288 * init.TILE_COLUMNS
