"""A run on one machine listens on the loopback interface only, by the kernel's table of its sockets."""

import os
import socket

import psutil

from foretrain.parallel import loopback
from tests.conftest import RunOnRanks
from tests.launcher.local import workers
from tests.sockets import listening, on_the_network, tree


def test_the_ranks_of_this_machine_and_their_launcher_listen_on_loopback_only(ranks: RunOnRanks) -> None:
    found, _ = ranks(2, workers.where_a_run_listens, os.getpid())
    assert len(found["all"]) >= 3, "the store, and a socket of gloo for each rank"
    assert found["on the network"] == {}


def test_rank_0_of_another_launcher_has_its_store_on_loopback_if_the_ranks_meet_there(ranks: RunOnRanks) -> None:
    found, _ = ranks(2, workers.where_rank_0_has_the_store, os.getpid(), free_port())
    assert len(found["all"]) >= 3
    assert found["on the network"] == {}


def test_the_table_shows_a_socket_that_other_machines_can_reach() -> None:
    here = psutil.Process()
    for address in ("0.0.0.0", "::"):
        with socket.create_server((address, 0), family=socket.AF_INET6 if address == "::" else socket.AF_INET) as one:
            assert f"{address}:{one.getsockname()[1]}" in on_the_network(tree(here))
    with socket.create_server(("127.0.0.1", 0)) as one:
        place = f"127.0.0.1:{one.getsockname()[1]}"
        assert place in listening([here]) and place not in on_the_network([here])


def test_ranks_connect_over_loopback_unless_the_user_names_an_interface() -> None:
    environ = {"GLOO_SOCKET_IFNAME": "eth7"}
    loopback.stay_on_loopback(environ)
    assert environ == {"GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "lo"}


def test_loopback_addresses_are_known() -> None:
    assert all(map(loopback.is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(loopback.is_loopback, ("10.0.0.2", "0.0.0.0", "::", "node1", "")))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
