"""The acceptance program for GPUs: its arithmetic, what it writes, and how it runs commands."""

import getpass
import json
import re
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu import machine, training
from benchmarks.gpu.budget import Budget, OutOfTimeError, TooSlowError
from benchmarks.gpu.checks import checkpoint, memory, throughput
from benchmarks.gpu.checks.elastic import layouts as elastic_layouts
from benchmarks.gpu.checks.nccl import bus_bandwidth
from benchmarks.gpu.checks.nccl import summary as rates
from benchmarks.gpu.checks.resume import check_resumed, not_deterministic
from benchmarks.gpu.context import CheckFailedError, Context
from benchmarks.gpu.curves import compare
from benchmarks.gpu.outcome import Outcome, anonymous, exit_status, last_lines
from benchmarks.processes import kill_group
from foretrain.configs import load as configs
from foretrain.parallel.layout import Layout
from foretrain.parallel.layout import check as check_layout
from foretrain.trainer.utilization import peak_tflops
from tests.processes import assert_gone, wait_until

CURVE = [{"step": step, "loss": 5.0 / step, "grad_norm": 1.0 + step, "step_s": 0.1} for step in range(1, 41)]


def changed(step: int, **values: float) -> list[dict[str, Any]]:
    """The curve with other values at one step."""
    return [{**record, **values} if record["step"] == step else record for record in CURVE]


def context_in(folder: Path, minutes: float = 10.0) -> Context:
    return Context("cpu", 2, "", folder, folder / "data", Budget(time.monotonic(), 60 * minutes))


def test_equal_curves_have_no_difference() -> None:
    comparison = compare(CURVE, changed(7, step_s=0.3))
    assert comparison.is_same
    assert (comparison.num_steps, comparison.loss, comparison.grad_norm) == (40, 0.0, 0.0)


@pytest.mark.parametrize(("name", "value"), [("loss", 5.0 / 17), ("grad_norm", 18.0)])
def test_one_bit_at_one_step_is_a_difference(name: str, value: float) -> None:
    comparison = compare(changed(17, **{name: value * (1 + 2**-52)}), CURVE)
    assert not comparison.is_same
    assert comparison.num_different == 1
    assert 0 < getattr(comparison, name) < 1e-15


def test_the_greatest_relative_difference_is_reported() -> None:
    comparison = compare(changed(5, loss=1.001, grad_norm=6.06), CURVE)
    assert comparison.loss == pytest.approx(0.001, rel=0.01)
    assert comparison.grad_norm == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("found", [CURVE[:-1], CURVE[1:], changed(3, loss=float("nan")), []])
def test_a_missing_step_and_a_loss_that_is_no_number_are_infinitely_different(found: list[dict[str, Any]]) -> None:
    comparison = compare(found, CURVE)
    assert not comparison.is_same
    assert comparison.loss == float("inf")
    json.dumps(comparison.record("bf16"), allow_nan=False)


def test_a_step_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        compare([*CURVE, CURVE[-1]], CURVE)


def test_a_second_start_from_the_first_step_is_no_resume_although_its_losses_are_the_same() -> None:
    check_resumed(CURVE[:16], changed(12, step_s=0.2), 10)
    with pytest.raises(CheckFailedError, match="did not continue"):
        check_resumed(CURVE[:16], changed(2, step_s=0.2), 10)


@given(start=st.floats(0, 1e6), total=st.floats(1, 1e4), share=st.floats(0.01, 1), passed=st.floats(0, 2e4))
def test_a_part_of_the_budget_ends_no_later_than_all_of_it(
    start: float, total: float, share: float, passed: float
) -> None:
    budget, now = Budget(start, total), start + passed
    part = budget.part(share, now)
    assert 0 <= part.left_s(now) <= budget.left_s(now)
    assert part.left_s(now) <= share * total * (1 + 1e-9) + 1e-6
    assert budget.fits(0, now)
    assert not budget.fits(budget.left_s(now) + 1, now)


def test_a_check_that_hangs_has_failed_and_one_that_the_end_cuts_short_has_not() -> None:
    part = Budget(0, 600).part(0.25, 100)
    assert part.end_s == 250
    assert isinstance(part.error(250), TooSlowError)
    late = Budget(0, 600).part(0.25, 500)
    assert late.end_s == 600
    assert isinstance(late.error(600), OutOfTimeError)


def test_a_check_that_fits_into_what_is_left_fits_into_its_part() -> None:
    budget = Budget(0, 60)
    assert budget.part(0.25, 10, at_least_s=60).fits(30, 10)
    assert not budget.part(0.25, 40, at_least_s=60).fits(30, 40)


@pytest.mark.parametrize(
    ("operation", "num_ranks", "bus"),
    [("all_reduce", 2, 100.0), ("all_reduce", 8, 175.0), ("reduce_scatter", 2, 50.0), ("all_gather", 8, 87.5)],
)
def test_bus_bandwidth_is_that_of_nccl_tests(operation: str, num_ranks: int, bus: float) -> None:
    assert bus_bandwidth(operation, 100.0, num_ranks) == bus


def test_rates_are_those_of_the_median_call() -> None:
    assert rates({"all_reduce": [1.0, 0.001, 0.002]}, 2**28, 4)["all_reduce"] == {"gb_s": 134.22, "bus_gb_s": 201.33}


def test_speed_is_the_median_after_the_warm_up_and_memory_the_peak() -> None:
    steps = [{"step_s": 9.0, "device_peak_gib": 1.0}] * throughput.NUM_WARMUP
    steps += [{"step_s": step_s, "device_peak_gib": 4 - step_s} for step_s in (1.0, 2.0, 3.0)]
    found = throughput.summary(steps)
    assert (found["step_s"], found["device_peak_gib"], found["mfu"]) == (2.0, 3.0, None)


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("h100", 989),
        ("Tesla T4", None),
    ],
)
def test_the_peak_of_a_gpu_is_found_by_its_name_or_is_not_known(gpu: str, peak: float | None) -> None:
    assert peak_tflops(gpu) == peak


def test_times_of_checkpoints_become_the_first_and_the_fastest() -> None:
    found = checkpoint.summary({"save_s": [3.0, 1.0], "load_s": [2.0, 4.0], "num_bytes": 2 * 10**9})
    assert (found["first_save_s"], found["save_s"], found["save_gb_s"]) == (3.0, 1.0, 2.0)
    assert (found["first_load_s"], found["load_s"], found["load_gb_s"]) == (2.0, 2.0, 1.0)


def test_operations_without_a_deterministic_kernel_are_named_once() -> None:
    line = "UserWarning: cumsum_cuda_kernel does not have a deterministic implementation, but you set ..."
    assert not_deterministic(f"{line}\nstep 10/40\n{line}") == ["cumsum_cuda_kernel"]


def test_the_foreseen_peaks_are_of_the_presets_as_they_are_now() -> None:
    found = memory.read_foreseen()
    assert {each.num_ranks for each in found} == {1, 2, 4, 8}
    assert all(2**31 < each.peak_bytes < 2**33 for each in found)


def test_foreseen_peaks_of_other_settings_are_refused(tmp_path: Path) -> None:
    results = json.loads(memory.FORESEEN.read_text())
    results["foreseen"][3]["overrides"].append("train.micro_batch_size=8")
    (tmp_path / "foreseen.json").write_text(json.dumps(results))
    with pytest.raises(CheckFailedError, match=r"benchmarks\.gpu\.foresee"):
        memory.read_foreseen(tmp_path / "foreseen.json")


@pytest.mark.parametrize(("measured", "passes"), [(4.59, True), (3.41, True), (4.61, False), (3.39, False)])
def test_memory_may_differ_by_15_percent(measured: float, passes: bool) -> None:
    assert (abs(memory.compared(4.0, measured)["difference"]) <= memory.TOLERANCE) is passes


@pytest.mark.parametrize(("device", "num_ranks"), [("cuda", 1), ("cuda", 2), ("cuda", 4), ("cuda", 8), ("cpu", 2)])
def test_every_run_of_the_program_has_a_legal_layout(device: Literal["cuda", "cpu"], num_ranks: int) -> None:
    context = replace(context_in(Path("work")), device=device, num_ranks=num_ranks, gpu="NVIDIA H100")
    layouts = {training.mixed_layout(num_ranks), *(elastic_layouts(num_ranks) if num_ranks > 1 else ())}
    runs = [training.small(context, 40, layout, precision) for layout in layouts for precision in ("bf16", "fp32")]
    runs += [throughput.settings(context), checkpoint.settings(context)]
    for name, *overrides in runs:
        config = configs.load(name, overrides)
        layout = Layout.from_config(config.parallel)
        assert layout.world_size == num_ranks
        assert config.train.device == device
        check_layout(layout, config.model, config.train)


@pytest.mark.parametrize(("num_gpus", "num_ranks"), [(0, 0), (1, 1), (2, 2), (3, 2), (7, 4), (8, 8), (16, 8)])
def test_as_many_gpus_as_there_are_become_1_2_4_or_8_ranks(num_gpus: int, num_ranks: int) -> None:
    assert machine.ranks_for(num_gpus) == num_ranks


def test_the_results_file_has_the_name_and_number_of_the_gpus() -> None:
    described = {"gpus": [{"name": "NVIDIA H100 80GB HBM3"}]}
    assert machine.file_name(described, "cuda", 8) == "gpu_nvidia-h100-80gb-hbm3_8.json"


def test_the_description_of_a_machine_names_no_host_user_or_folder() -> None:
    text = json.dumps(machine.describe())
    assert {"gpus", "driver", "cuda", "nccl", "torch", "num_cpus"} <= json.loads(text).keys()
    for name in (socket.gethostname(), getpass.getuser(), str(Path.home()), sys.prefix):
        assert not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)


def test_output_is_kept_without_names_of_hosts_and_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node-17.cluster")
    text = 'node-17.cluster:12 NCCL WARN\n\n  File "/a/b/c/trainer/build.py", line 3\n1/2 /x\n'
    assert last_lines(text) == ("HOST:12 NCCL WARN", '  File ".../trainer/build.py", line 3', "1/2 /x")
    assert anonymous("see https://example.org/a/b/c and dp=2/tp=2") == "see https://example.org/a/b/c and dp=2/tp=2"


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["passed", "not applicable"], 0),
        (["passed", "not run"], 3),
        (["failed", "not run"], 1),
        (["passed", "failed"], 1),
        ([], 0),
    ],
)
def test_the_exit_status_is_1_if_a_check_failed_and_3_if_one_was_not_run(statuses: list[Any], status: int) -> None:
    assert exit_status([Outcome("a check", each) for each in statuses]) == status


@pytest.mark.long
def test_a_killed_command_leaves_no_process(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(999)'],"
    script += " start_new_session=True); time.sleep(999)"
    with context_in(tmp_path).started("-c", script) as process:
        wait_until(lambda: len(psutil.Process(process.pid).children()) == 1)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        kill_group(process)
    assert_gone(family)


def test_a_command_that_does_not_end_in_time_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(OutOfTimeError):
        context_in(tmp_path, minutes=0.001).run("-c", "import time; time.sleep(999)")
