"""Calls of the command line: in a process of its own, or in this process if the command starts no other."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foretrain.trainer.metrics import read_metrics
from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT
from foretrain.verbs.app import app

ROOT = Path(__file__).parents[1]
DEADLINE_S = 240.0
"""Seconds that a command may take on a machine with a high load; on an idle one, it takes far less."""

FOREIGN_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FORCE_COLOR", "FORETRAIN_TRACEBACK")
"""Variables that change what a command does, and that may be set where the tests run."""
NUM_STEPS = 40
CONFIG = f"""
run_dir: runs/complete
model: {{num_layers: 2, d_model: 32, num_heads: 2, d_ff: 64, seq_len: 32}}
data: {{path: corpus}}
parallel: {{dp: 2}}
schedule: {{warmup_tokens: 1000}}
train: {{num_tokens: {NUM_STEPS * 8 * 32}, global_batch_size: 8, micro_batch_size: 2, eval_samples: 8, eval_every: 0}}
sample: {{num_tokens: 8, prompts: ["7 plus ", "日本語 🙂 [bold] \\\\"]}}
"""
"""A run of seconds, on the corpus of the fixture `corpus`."""


@dataclass
class Ended:
    """A command that has ended, and what it printed, without colours."""

    status: int
    out: str
    err: str


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def environment(encoding: str = "utf-8") -> dict[str, str]:
    """The environment of this process, for a terminal of 80 columns with that encoding."""
    ours = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return {**ours, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "COLUMNS": "80"}


def start(*arguments: str, cwd: Path, encoding: str = "utf-8", **variables: str) -> "subprocess.Popen[str]":
    """Start a command in a process group of its own, as a shell does. `variables` are added to its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "foretrain", *arguments],
        cwd=cwd,
        env={**environment(encoding), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding=encoding,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> Ended:
    """Wait until a command ends. It must not print a traceback."""
    out, err = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in out + err, out + err
    return Ended(process.returncode, _plain(out), _plain(err))


def wait_for_a_step(process: "subprocess.Popen[Any]", metrics: Path) -> None:
    """Wait until the metrics of a run have its first step."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not (metrics.exists() and read_metrics(metrics)):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def foretrain(*arguments: str, cwd: Path, encoding: str = "utf-8") -> Ended:
    """Run a command in its own process."""
    return end(start(*arguments, cwd=cwd, encoding=encoding))


def called(*arguments: str, cwd: Path, **variables: str) -> Ended:
    """Run a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name in FOREIGN_VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in {"COLUMNS": "80", **variables}.items():
            patch.setenv(name, value)
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return Ended(result.exit_code, _plain(result.stdout), _plain(result.stderr))


def assert_refused(ended: Ended, *words: str, num_lines: int = 1, status: int = EXIT_BAD_INPUT) -> None:
    """Assert that a command printed an error with these words, in at most that many lines, and nothing else."""
    assert ended.status == status
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) <= num_lines, ended.err
    assert [word for word in words if word not in ended.err] == [], ended.err
