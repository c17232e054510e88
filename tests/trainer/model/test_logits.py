"""Which models compute their logits in parts, how large the parts are, and what they cost."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foretrain.configs.load import load
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.parallel.layers import Head
from foretrain.parallel.layout import Layout
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.logits import HUGE_BYTES, PART_BYTES, ROW_UNIT, recomputed_head_flops, rows_of_part
from foretrain.trainer.model.table import flops_per_token, head_flops
from foretrain.trainer.stages.cost import flop_costs
from foretrain.trainer.utilization import utilization

PRESETS = ["gpt2_124m_a100", "gpt3_175b_a100", "llama_7b_a100", "llama_70b_a100"]
LARGE = load("runs/llama_7b_a100", ["model.vocab_size=128256", "train.recompute=none"])


def sizes(config: Config) -> tuple[ModelConfig, TrainConfig, Layout]:
    return config.model, config.train, Layout.from_config(config.parallel)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_with_usual_vocabularies_pay_nothing(preset: str) -> None:
    config = load(f"runs/{preset}", [])
    assert rows_of_part(*sizes(config)) is None
    assert recomputed_head_flops(*sizes(config)) == 0


@pytest.mark.parametrize("tp", [1, 2])
def test_a_vocabulary_of_128k_is_computed_in_parts(tp: int) -> None:
    layout = Layout(tp=tp)
    rows = rows_of_part(LARGE.model, LARGE.train, layout)
    assert rows is not None
    assert rows * 4 * LARGE.model.seq_len == PART_BYTES
    assert recomputed_head_flops(LARGE.model, LARGE.train, layout) < 0.03 * flops_per_token(LARGE.model)


@given(
    st.integers(1, 300_000),
    st.integers(1, 64),
    st.sampled_from([128, 1024, 8192]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([64, 1024, 8192]),
)
def test_logits_at_one_time_are_bounded(vocab_size: int, micro: int, seq_len: int, tp: int, width: int) -> None:
    model = ModelConfig(num_layers=2, d_model=width, num_heads=8, vocab_size=vocab_size, seq_len=seq_len)
    rows = rows_of_part(model, TrainConfig(global_batch_size=micro, micro_batch_size=micro), Layout(tp=tp))
    bytes_of_row = 4 * micro * seq_len
    if rows is None:
        assert bytes_of_row * vocab_size / tp <= HUGE_BYTES
    else:
        assert rows % ROW_UNIT == 0
        assert bytes_of_row * rows <= max(PART_BYTES, bytes_of_row * ROW_UNIT)


def test_a_pipeline_is_balanced_and_utilization_counted_with_what_is_computed_again() -> None:
    model, train, _ = sizes(LARGE)
    head = head_flops(model)
    assert flop_costs(model, train, Layout()).last == pytest.approx(4 / 3 * head)
    zero_bubble = Layout(pp=2, vpp=2, schedule="zbv")
    assert flop_costs(model, train, zero_bubble).last == pytest.approx(5 / 3 * head)
    used = utilization(replace(LARGE, model=model), 64, step_s=10.0)
    assert used.hfu / used.mfu == pytest.approx(1 + head / 3 / flops_per_token(model))


@pytest.mark.parametrize(("splits_backward", "products"), [(False, 4), (True, 5)])
def test_torch_counts_the_flops_that_are_accounted(splits_backward: bool, products: int) -> None:
    num_rows, num_positions, width = 40, 6, 8
    head = Head(
        TensorParallel(splits_backward=splits_backward), nn.Parameter(torch.ones(num_rows, width)), num_rows, 16
    )
    x_LBD = torch.ones(num_positions, 1, width, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        head(x_LBD, torch.zeros(1, num_positions, dtype=torch.long)).sum().backward()
    assert counter.get_total_flops() == products * 2 * num_rows * num_positions * width
