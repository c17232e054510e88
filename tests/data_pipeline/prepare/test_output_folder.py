"""One process at a time prepares a corpus, and a dead process holds no lock."""

import multiprocessing
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.prepare.output_folder import lock_output
from tests.data_pipeline.samples import SMALL


def test_a_second_prepare_is_refused_and_a_dead_process_holds_no_lock(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import signal; from pathlib import Path\n"
        "from foretrain.data_pipeline.prepare.output_folder import lock_output\n"
        f"with lock_output(Path({str(out)!r})): print('held', flush=True); signal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(CorpusError, match=rf"out is being prepared by process {holder.pid} on .*choose another folder"):
        prepare([inputs], out, **SMALL)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    prepare([inputs], out, **SMALL)
    assert list(tmp_path.iterdir()) == [out]


def hold_often(out: Path, held: Any, most: Any) -> None:
    for _ in range(60):
        with suppress(CorpusError), lock_output(out):
            with held.get_lock():
                held.value += 1
                most.value = max(most.value, held.value)
            time.sleep(0.0005)
            with held.get_lock():
                held.value -= 1


def test_only_one_of_many_processes_holds_the_lock_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, most = context.Value("i", 0), context.Value("i", 0)
    processes = [context.Process(target=hold_often, args=(tmp_path / "out", held, most)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert most.value == 1
