"""What needs no fake GPU: the versions of torch that are accepted, live bytes, and records as JSON."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foretrain.scaling.fake_cuda.__main__ import main
from foretrain.scaling.fake_cuda.device import KNOWN_TORCH, UnsupportedTorchError, check_torch
from foretrain.scaling.fake_cuda.memory import LiveStorages
from foretrain.scaling.fake_cuda.record import (
    VERSION,
    Collective,
    Kernel,
    Memory,
    Phase,
    RankRecord,
    Site,
    Sync,
)
from foretrain.scaling.fake_cuda.report import report
from tests.scaling.fake_cuda.cases import tiny
from tests.scaling.fake_cuda.conftest import ROOT, require_known_torch

SITE = Site("foretrain.parallel.engine:1 step", "torch.cuda:2 wait")
PHASE = Phase(
    "forward_backward",
    (Sync("item", SITE, 0, 2), Sync("copy to host", SITE, 8, 1)),
    (Collective("all_reduce", "tp", 2, "cuda", "float32", 10, 40, SITE, 3),),
    (Kernel("add", 5, 100), Kernel("mm", 1, 1000)),
    Memory(10, 30),
    Memory(1, 2),
)
RECORD = RankRecord("hash", "dp=1 tp=2 pp=1", 1, "tp=1", "2.13.0", 4, 1000, PHASE, ((PHASE,),), None, PHASE)


def test_a_version_of_torch_that_was_not_tried_is_refused_with_those_that_were() -> None:
    with pytest.raises(UnsupportedTorchError, match=r"tried with torch 2\.13 only, and this is torch 2\.14\.1\+cpu"):
        check_torch("2.14.1+cpu", None)


def test_a_build_of_torch_for_gpus_is_refused() -> None:
    with pytest.raises(UnsupportedTorchError, match=r"this build has CUDA 12\.9"):
        check_torch("2.13.0+cu129", "12.9")


def test_every_version_that_was_tried_is_accepted() -> None:
    for version in KNOWN_TORCH:
        check_torch(f"{version}.1+cpu", None)


def test_the_program_refuses_an_unknown_torch_before_it_changes_anything() -> None:
    code = (
        "import torch; torch.__version__ = '2.99.0'\n"
        "from foretrain.scaling.fake_cuda.__main__ import main\n"
        "print(main(['runs/dry_run', 'model.vocab_size=61']), torch.cuda.is_available())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert "fake GPUs were tried with torch 2.13 only, and this is torch 2.99.0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model.vocab_size=61", "--rank", "8"],
            "there is no rank 8: the layout dp=2 tp=2 pp=2 1f1b zero=1 has 8 ranks",
        ),
        ([], "set model.vocab_size"),
        (["model.vocab_size=61", "parallel.tp=3"], "parallel.tp = 3 does not divide model.num_heads"),
        (["model.vocab_size=61", "parallel.tpp=3"], "did you mean parallel.tp?"),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_change(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs/dry_run", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_the_program_writes_a_record(tmp_path: Path) -> None:
    require_known_torch()
    case, file = tiny(), tmp_path / "rank.json"
    command = [sys.executable, "-m", "foretrain.scaling.fake_cuda", case.preset, *case.overrides]
    command += ["--steps", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    record = RankRecord.from_json(file.read_bytes())
    assert (record.rank, len(record.steps)) == (0, 1)
    assert report(record) in done.stdout


def test_a_record_is_the_same_after_json() -> None:
    assert RankRecord.from_json(RECORD.to_json()) == RECORD
    assert RankRecord.from_json(RECORD.to_json(indent=1)) == RECORD


def test_a_record_of_a_later_version_is_refused() -> None:
    later = RECORD.to_json().replace(f'"version": {VERSION}', f'"version": {VERSION + 1}')
    with pytest.raises(ValueError, match="update foretrain"):
        RankRecord.from_json(later)


def test_a_record_adds_up_its_phases() -> None:
    phase = RECORD.phase("forward_backward")
    assert (phase.num_syncs, phase.num_kernels, phase.bytes_outside_products) == (3, 6, 100)
    assert RECORD.peak_device_bytes == 30
    with pytest.raises(KeyError):
        RECORD.phase("update")


def test_a_report_names_each_sync_and_collective_with_its_place() -> None:
    lines = report(RECORD).splitlines()
    assert f"forward_backward: 2 x item at {SITE}" in lines
    assert f"forward_backward: 3 x all_reduce over tp (2) of 10 float32 on cuda, 40 B, at {SITE}" in lines


def test_live_bytes_follow_storages_until_they_are_freed() -> None:
    storages = LiveStorages()
    first, second = torch.zeros(100), torch.zeros(50)
    for tensor in (first, second, first[10:], first.view(10, 10)):
        storages.follow(tensor)
    assert storages.live["cpu"] == 600
    del second, tensor
    gc.collect()
    storages.start_peak()
    assert storages.live["cpu"] == storages.peak["cpu"] == 400
    first.untyped_storage().resize_(0)
    storages.follow(first)
    assert (storages.live["cpu"], storages.peak["cpu"]) == (0, 400)


def test_pinned_memory_is_rounded_up_to_a_power_of_two() -> None:
    storages, tensor = LiveStorages(), torch.zeros(100)
    storages.pin(tensor)
    assert storages.is_pinned(tensor[5:])
    assert storages.live["cpu"] == 512
