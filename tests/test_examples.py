"""The examples run as their first lines say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import ROOT, environment

SMALL = ["model.num_layers=2", "model.d_model=32", "model.d_ff=64", "model.seq_len=32", "train.global_batch_size=8"]
SMALL += ["schedule.warmup_tokens=1000"]
EXAMPLES = {
    "train_with_callback.py": (["train.num_tokens=5e3"], r"ended after step 20, stopped by: the end of the budget"),
    "own_loop.py": ([], r"step  20  loss \d\.\d+  gradient norm \d\.\d+"),
    "custom_block.py": (["train.num_tokens=2e3"], r"step 8/8  held-out loss \d\.\d+"),
}


def run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_tried() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize(
    "name",
    [
        "train_with_callback.py",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("own_loop.py", "custom_block.py")),
    ],
)
def test_an_example_runs_in_one_process(name: str, corpus: Path, tmp_path: Path) -> None:
    settings, expected = EXAMPLES[name]
    out = run([sys.executable, str(ROOT / "examples" / name), str(corpus), *SMALL, *settings], tmp_path)
    assert re.search(expected, out), out


@pytest.mark.long
@pytest.mark.parametrize("name", ["train_with_callback.py", "own_loop.py"])
def test_an_example_runs_on_four_ranks_of_torchrun(name: str, corpus: Path, tmp_path: Path) -> None:
    settings, expected = EXAMPLES[name]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    layout = ["parallel.tp=2", "parallel.pp=2"]
    out = run([*torchrun, str(ROOT / "examples" / name), str(corpus), *SMALL, *settings, *layout], tmp_path)
    assert len(re.findall(expected, out)) == (4 if name == "train_with_callback.py" else 1), out
