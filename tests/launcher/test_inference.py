"""`generate` and `eval` with --tp: the output of one process, and no failure or Ctrl-C that is more than a line."""

import errno
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.launcher.inference import RanksFailedError, with_model
from tests.cli import Ended, assert_refused, called, end, start
from tests.processes import assert_gone
from tests.trainer.interop.cases import LLAMA, config_of
from tests.trainer.interop.made import random_model, write_checkpoint
from tests.trainer.text.workers import fail, kill_a_rank


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folder `run` of a trained model."""
    folder = tmp_path_factory.mktemp("trained")
    config, tokenizer = config_of(LLAMA), (corpus / TOKENIZER).read_text(encoding="utf-8")
    write_checkpoint(folder / "run", config, random_model(config).shards(), tokenizer=tokenizer)
    return folder


def on_ranks(capfd: pytest.CaptureFixture[str], *arguments: str, cwd: Path) -> Ended:
    """Run a command in this process, of which rank 0 prints."""
    capfd.readouterr()
    ended, printed = called(*arguments, "--tp", "2", cwd=cwd), capfd.readouterr()
    return Ended(ended.status, printed.out + ended.out, printed.err + ended.err)


def test_what_cannot_be_divided_is_refused_before_ranks_start(folder: Path) -> None:
    for verb in ("generate", "eval"):
        refused = called(verb, "run", "--tp", "3", cwd=folder)
        assert_refused(refused, "--tp 3 cannot divide the model", "num_heads = 4", "use --tp 1, 2 or 4")
    assert_refused(called("generate", "run", "--tp", "2", "--device", "cuda", cwd=folder), "torch sees no CUDA device")


@pytest.mark.long
def test_lines_of_prompts_are_those_of_one_process(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prompts = [{"prompt": "7 plus", "seed": 3}, {"prompt": "日本\u2028"}, {"prompt": "a longer prompt about 7"}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in prompts))
    arguments = ("generate", "run", "--prompts", "prompts.jsonl", "--num-tokens", "12", "--batch-size", "2")
    assert on_ranks(capfd, *arguments, cwd=folder) == called(*arguments, cwd=folder)


@pytest.mark.long
def test_losses_are_those_of_one_process(folder: Path, corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("eval", "run", "--data", str(corpus), "--samples", "8")
    one = called(*arguments, "--out", "one.json", cwd=folder)
    two = on_ranks(capfd, *arguments, "--out", "two.json", cwd=folder)
    assert (two.status, two.out) == (0, one.out)
    expected, found = (leaves(json.loads((folder / name).read_text())) for name in ("one.json", "two.json"))
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(found) > 20


def leaves(value: Any, name: str = "") -> dict[str, float]:
    """Each number in nested dicts and lists, by where it is."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, each in items for path, leaf in leaves(each, f"{name}/{key}").items()}
    return {name: value} if isinstance(value, int | float) else {}


@pytest.mark.long
def test_a_rank_that_is_killed_is_one_line(folder: Path) -> None:
    with pytest.raises(RanksFailedError, match=r"^rank 1 was killed by SIGKILL \(out of memory\?\) \([^\n]*\)$"):
        with_model(folder / "run", None, "cpu", 2, kill_a_rank)


@pytest.mark.long
def test_an_error_of_the_job_is_the_one_of_one_process(folder: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "out")
    with pytest.raises(OSError, match="No space left on device: 'out'"):
        with_model(folder / "run", None, "cpu", 2, partial(fail, error=full))
    with pytest.raises(RanksFailedError, match=r"^another prompt, please$"):
        with_model(folder / "run", None, "cpu", 2, partial(fail, error=ValueError("another prompt, please")))


@pytest.mark.long
def test_ctrl_c_ends_all_ranks_without_a_word(folder: Path) -> None:
    options = ("--num-tokens", "10000000", "--temperature", "0", "--tp", "2")  # they would take hours
    process = start("generate", "run", *options, cwd=folder)
    try:
        assert process.stdout is not None
        process.stdout.read(1)
        descendants = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        ended = end(process)
    finally:
        process.kill()
    assert len(descendants) >= 3, "two ranks, and the server they are forked from"
    assert_gone(descendants)
    assert ended.err == ""
    assert ended.status == 128 + signal.SIGINT
