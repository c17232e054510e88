"""The port at which ranks meet belongs to their job from the moment it is chosen."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import pytest

from foretrain.launcher.rendezvous import reserve
from foretrain.parallel.loopback import own_store
from tests.cli import ROOT


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is kept for a run."""
    port, holder = reserve(os.getpid())
    with holder:
        yield port


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
@pytest.mark.parametrize("reuses", [False, True])
def test_nobody_else_can_listen_there_before_rank_0(address: str, reuses: bool, port: int) -> None:
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuses)
        with pytest.raises(OSError, match="in use"):
            thief.bind((address, port))


@pytest.mark.parametrize("address", ["127.0.0.1", socket.gethostname()])
def test_rank_0_listens_there(address: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": address, "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    store = own_store(timedelta(seconds=60))
    assert store is not None and store.port == port
    store.set("key", "value")
    assert store.get("key") == b"value"


def test_two_jobs_with_one_number_get_two_ports(port: int) -> None:
    other, holder = reserve(os.getpid())
    holder.close()
    assert other != port


def test_the_program_of_batch_scripts_holds_the_port_until_its_reader_is_gone() -> None:
    command = [sys.executable, "-m", "foretrain.launcher.rendezvous", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        assert program.stdout is not None
        port = int(program.stdout.readline())
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind(("", port))
        with suppress(BrokenPipeError):
            program.stdout.close()
        assert program.wait(timeout=60) == 0
    with socket.create_server(("", port)):
        pass
