"""One at a time prepares a corpus, and a dead one holds nothing."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.prepare.workplace import locked
from tests.data_pipeline.samples import SMALL


def test_two_at_once_do_not_collide_and_a_dead_one_holds_nothing(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os, signal; from pathlib import Path; from foretrain.data_pipeline.prepare.workplace import locked\n"
        f"with locked(Path({str(out)!r})): print('held', flush=True); signal.pause()"
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


def test_of_many_that_wait_for_the_lock_one_at_a_time_has_it(tmp_path: Path) -> None:
    held, most = [0], [0]

    def hold() -> None:
        for _ in range(60):
            with suppress(CorpusError), locked(tmp_path / "out"):
                held[0] += 1
                most[0] = max(most[0], held[0])
                time.sleep(0.0005)
                held[0] -= 1

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(hold) for _ in range(4)]:
            done.result()
    assert most == [1]
