"""Attention inside segments is that of a dense mask, no segment sees another, and nothing of L x L is made."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from foretrain.parallel import segments
from foretrain.parallel.segments import LENGTHS_PER_DOUBLING, Segments, round_up

CPU = torch.device("cpu")


def positions_of(*lengths_of_samples: list[int]) -> Tensor:
    """Positions (B, L) of samples whose segments have these lengths."""
    return torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in lengths_of_samples])


@st.composite
def samples(draw: st.DrawFn) -> Tensor:
    """Positions (B, L) of random segments, or of a window's first one that begins in the middle of its document."""
    seq_len = draw(st.integers(1, 40))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        cuts = draw(st.sets(st.integers(1, seq_len - 1))) if seq_len > 1 else set()
        bounds = [0, *sorted(cuts), seq_len]
        rows.append([end - start for start, end in pairwise(bounds)])
    positions_BL = positions_of(*rows)
    if draw(st.booleans()):
        positions_BL[:, 0] += 1  # a first token is a first one, whatever its position
    return positions_BL


def heads(batch_size: int, seq_len: int, num_heads: int = 4, num_kv_heads: int = 2, width: int = 8) -> list[Tensor]:
    """Queries, keys, values, and a gradient of the output: (L, B, N or K, H)."""
    generator = torch.Generator().manual_seed(seq_len)
    counts = (num_heads, num_kv_heads, num_kv_heads, num_heads)
    return [torch.randn(seq_len, batch_size, count, width, generator=generator) for count in counts]


def dense_mask(positions_BL: Tensor) -> Tensor:
    """(B, 1, L, L): whether the row's token sees the column's."""
    begins_BL = positions_BL == 0
    begins_BL[:, 0] = True
    number_BL = begins_BL.cumsum(1)
    return ((number_BL[:, :, None] == number_BL[:, None]).tril())[:, None]


def dense(q_LBNH: Tensor, k_LBKH: Tensor, v_LBKH: Tensor, positions_BL: Tensor) -> Tensor:
    """The same attention by a mask."""
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q_LBNH, k_LBKH, v_LBKH))
    out_BNLH = F.scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(positions_BL), enable_gqa=True)
    return out_BNLH.permute(2, 0, 1, 3)


def ours(q_LBNH: Tensor, k_LBKH: Tensor, v_LBKH: Tensor, positions_BL: Tensor) -> Tensor:
    return Segments.of(positions_BL, CPU).attend(q_LBNH, k_LBKH, v_LBKH)


def with_gradients(attention: Callable[..., Tensor], problem: list[Tensor], positions_BL: Tensor) -> list[Tensor]:
    """The output, and the gradients of queries, keys and values."""
    inputs = [x.clone().requires_grad_() for x in problem[:3]]
    out = attention(*inputs, positions_BL)
    return [out.detach(), *torch.autograd.grad(out, inputs, problem[3])]


@settings(max_examples=40)
@given(samples())
def test_output_and_gradients_are_those_of_a_dense_mask(positions_BL: Tensor) -> None:
    problem = heads(*positions_BL.shape)
    for found, expected in zip(
        with_gradients(ours, problem, positions_BL), with_gradients(dense, problem, positions_BL), strict=True
    ):
        assert (found - expected).abs().max() <= 1e-5


@settings(max_examples=40)
@given(samples())
def test_every_token_has_one_row_and_segments_lie_in_order(positions_BL: Tensor) -> None:
    found = Segments.of(positions_BL, CPU)
    batch_size, seq_len = positions_BL.shape
    assert torch.equal(found.rows_R[found.places_T], torch.arange(batch_size * seq_len))
    assert len(found.rows_R) == sum(count * length for count, length in found.stacks)
    begins = positions_BL == 0
    begins[:, 0] = True
    number_of = begins.flatten().cumsum(0).view(batch_size, seq_len).T.flatten()  # the segment of token (l, b)
    first = 0
    for count, length in found.stacks:
        for rows in found.rows_R[first : first + count * length].view(count, length):
            assert len(number_of[rows].unique()) == 1, "a row of a stack is of one segment"
            size = int((number_of == number_of[rows[0]]).sum())
            assert torch.equal(rows[:size] // batch_size, rows[0] // batch_size + torch.arange(size))
            assert (rows[size:] == rows[size - 1]).all(), "filled up by its last token"
        first += count * length


@given(st.lists(st.integers(1, 10**6), min_size=1))
def test_lengths_are_rounded_up_by_less_than_an_eighth(numbers: list[int]) -> None:
    lengths = torch.tensor(numbers)
    rounded = round_up(lengths)
    assert (rounded >= lengths).all()
    assert ((rounded - lengths) * LENGTHS_PER_DOUBLING < lengths).all()
    assert torch.equal(rounded[lengths <= 2 * LENGTHS_PER_DOUBLING], lengths[lengths <= 2 * LENGTHS_PER_DOUBLING])


def test_many_lengths_make_few_stacks() -> None:
    lengths = torch.randint(1, 400, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    stacks = Segments.of(positions_of(lengths), CPU).stacks
    assert sum(count for count, _ in stacks) == len(lengths)
    assert len(stacks) <= 2 * LENGTHS_PER_DOUBLING + LENGTHS_PER_DOUBLING * 5  # to 16, and five doublings to 512


PACKED = positions_of([37, 1, 20, 70, 35, 90, 3], [256], [18, 18, 17, 1, 1, 1, 200])


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_segment_is_the_same_bitwise_whatever_shares_its_microbatch(num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    problem = heads(*PACKED.shape)
    together = with_gradients(ours, problem, PACKED)
    for sample, positions_L in enumerate(PACKED):
        starts = (positions_L == 0).nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], len(positions_L)], strict=True):
            # The same segment, and zeros where the rest was.
            one = [torch.zeros_like(x) for x in problem]
            for mine, all_of in zip(one, problem, strict=True):
                mine[start:end, sample] = all_of[start:end, sample]
            for found, expected in zip(with_gradients(ours, one, PACKED), together, strict=True):
                assert torch.equal(found[start:end, sample], expected[start:end, sample])
            # The same segment where all the rest is another document.
            bounds = [bound for bound in (start, end - start, len(positions_L) - end) if bound]
            others = positions_of(bounds)
            alone = with_gradients(ours, [x[:, sample : sample + 1] for x in problem], others)
            for found, expected in zip(alone, together, strict=True):
                assert torch.equal(found[start:end, 0], expected[start:end, sample])
    torch.set_num_threads(before)


def test_no_gradient_leaves_a_segment() -> None:
    problem = heads(*PACKED.shape)
    problem[3].zero_()
    problem[3][38:58, 0] = 1.0  # the third segment of the first sample
    for gradient in with_gradients(ours, problem, PACKED)[1:]:
        assert gradient[38:58, 0].any()
        gradient[38:58, 0] = 0.0
        assert not gradient.any()


def test_stacks_of_no_more_segments_than_a_kernel_takes_give_the_same_bitwise(monkeypatch: pytest.MonkeyPatch) -> None:
    positions_BL = positions_of([1] * 16, [4] * 4)
    problem = heads(*positions_BL.shape)
    expected = with_gradients(ours, problem, positions_BL)
    assert Segments.of(positions_BL, CPU).stacks == ((16, 1), (4, 4))
    monkeypatch.setattr(segments, "MAX_STACKED", 6)
    assert Segments.of(positions_BL, CPU).stacks == ((6, 1), (6, 1), (4, 1), (4, 4))
    for found, same in zip(with_gradients(ours, problem, positions_BL), expected, strict=True):
        assert torch.equal(found, same)


def test_a_sample_that_is_one_document_is_plain_causal_attention_bitwise() -> None:
    problem = heads(2, 100)

    def plain(q_LBNH: Tensor, k_LBKH: Tensor, v_LBKH: Tensor, _: Tensor) -> Tensor:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (q_LBNH, k_LBKH, v_LBKH))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).permute(2, 0, 1, 3)

    positions_BL = positions_of([100], [100])
    for found, expected in zip(
        with_gradients(ours, problem, positions_BL), with_gradients(plain, problem, positions_BL), strict=True
    ):
        assert torch.equal(found, expected)


def largest_allocation_bytes(attention: Callable[..., Tensor], problem: list[Tensor], positions_BL: Tensor) -> int:
    """The largest allocation of one forward and backward pass, kernels included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with_gradients(attention, problem, positions_BL)
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


def test_nothing_of_the_square_of_a_long_sample_is_allocated() -> None:
    positions_BL = positions_of([3000, 17, 500, 1, 1100, 2050, 24, 1500])
    problem = heads(1, 8192, num_heads=2, num_kv_heads=1)
    assert largest_allocation_bytes(ours, problem, positions_BL) < 8192 * 8192 / 16
    short = heads(1, 2048, num_heads=2, num_kv_heads=1)
    assert largest_allocation_bytes(dense, short, positions_of([2000, 48])) >= 2048 * 2048, "a mask is seen"
