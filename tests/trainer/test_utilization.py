"""The share of the accelerators' peak that training uses, and the memory, in the metrics of runs on GPUs."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from foretrain.configs.load import load
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.parallel.groups import init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.callbacks.base import Step
from foretrain.trainer.callbacks.device import DeviceMetrics
from foretrain.trainer.sinks.base import Session
from foretrain.trainer.sinks.terminal import TerminalSink
from foretrain.trainer.utilization import utilization
from tests.conftest import RunOnRanks

SEVEN_B = load("runs/llama_7b_a100", ["model.vocab_size=32000", "train.recompute=none"])


def test_mfu_is_that_of_the_paper_for_its_own_formula() -> None:
    model, tokens = SEVEN_B.model, SEVEN_B.train.global_batch_size * SEVEN_B.model.seq_len
    d_ff = model.d_ff or 0
    matrices = model.num_layers * (4 * model.d_model**2 + 3 * model.d_model * d_ff) + 32000 * model.d_model
    per_token = 6 * matrices + 12 * model.num_layers * model.d_model * model.seq_len
    found = utilization(SEVEN_B, 64, step_s=10.0)
    assert found.mfu == pytest.approx(per_token * tokens / 10.0 / (64 * 312e12), rel=1e-9)
    assert found.hfu == found.mfu


def test_full_recomputation_is_a_third_more_work_in_blocks_and_raises_hfu_alone() -> None:
    full = replace(SEVEN_B, train=replace(SEVEN_B.train, recompute="full"))
    half = replace(full, train=replace(full.train, recompute_layers=SEVEN_B.model.num_layers // 2))
    plain, some, found = (utilization(config, 8, 1.0) for config in (SEVEN_B, half, full))
    assert found.mfu == some.mfu == plain.mfu == plain.hfu
    assert some.hfu - some.mfu == pytest.approx((found.hfu - found.mfu) / 2)
    assert 1.25 < found.hfu / found.mfu < 4 / 3


def metrics_of_a_step(config: Config) -> dict[str, float]:
    cuda: Any = torch.cuda
    cuda.max_memory_allocated, cuda.memory_allocated, cuda.memory_reserved = (
        lambda gib=gib: gib * 2**30 for gib in (3, 1, 4)
    )
    cuda.reset_peak_memory_stats = lambda: None
    groups = init_groups(Layout(), "cpu", timeout_s=60.0)
    phase_s = {"forward_backward": 1.5, "reduce": 0.2, "update": 0.1}
    step = Step(1, None, 0.0, {"step_s": 2.0}, is_last=False, phase_s=phase_s)  # type: ignore[arg-type]
    DeviceMetrics(config, groups).on_step(None, step)  # type: ignore[arg-type]
    return step.metrics


def test_a_step_on_gpus_has_its_utilization_time_and_memory(ranks: RunOnRanks) -> None:
    config = Config(model=ModelConfig(vocab_size=100), train=TrainConfig())
    (metrics,) = ranks(1, metrics_of_a_step, config)
    used = utilization(config, 1, 2.0)
    assert (metrics["mfu"], metrics["hfu"]) == (used.mfu, used.hfu)
    assert (metrics["forward_backward_s"], metrics["reduce_s"], metrics["update_s"]) == (1.5, 0.2, 0.1)
    memory = {name: value for name, value in metrics.items() if name.startswith("device_")}
    assert memory == {"device_peak_gib": 3.0, "device_allocated_gib": 1.0, "device_reserved_gib": 4.0}


def test_the_terminal_shows_utilization_where_there_is_one(tmp_path: Any) -> None:
    out = io.StringIO()
    sink = TerminalSink(Console(file=out, width=160))
    sink.open(Session(Config(), tmp_path, 0, 2, 100))
    values = {"loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "step_s": 1.0}
    sink.step({"step": 1, **values})
    phases = {"forward_backward_s": 0.8, "reduce_s": 0.05, "update_s": 0.1}
    sink.step({"step": 2, **values, "mfu": 0.412, "device_peak_gib": 50.13, **phases})
    sink.close()
    lines = out.getvalue().splitlines()
    assert "MFU 41.2%  50.1 GiB  forward and backward 0.80 s  reduce 0.05 s  update 0.10 s" in lines[-1]
    assert all("MFU" not in line for line in lines[:-1])
