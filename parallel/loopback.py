"""The store at which ranks meet. On one machine, it and the ranks listen on the loopback interface only."""

import errno
import ipaddress
import os
import socket
from collections.abc import MutableMapping
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore

ADDRESS = "127.0.0.1"
INTERFACE = "lo"
_IS_OF_AGENT = "TORCHELASTIC_USE_AGENT_STORE"
"""torch's variable that says whether another process than rank 0 has the store."""


def is_loopback(address: str) -> bool:
    """Whether only processes of this machine can reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def stay_on_loopback(environ: MutableMapping[str, str]) -> None:
    """Have gloo and NCCL connect the ranks over the loopback interface, unless `environ` names another one.

    They would take the interface of the machine's name, which others can reach.
    """
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        environ.setdefault(name, INTERFACE)


def loopback_store(port: int = 0) -> "TCPStore":
    """A store at which ranks of this machine meet. torch's own would listen on every interface. Port 0: a free one.

    Raises OSError if something else listens at the port.
    """
    return _store(ADDRESS, port, None, timedelta(minutes=5))


def own_store(timeout: timedelta) -> "TCPStore | None":
    """The store of rank 0 at MASTER_ADDR and MASTER_PORT; None if another process has it.

    It listens on the loopback interface if MASTER_ADDR is there. The launcher may keep the port for it, with a socket
    that has SO_REUSEPORT (launcher/rendezvous.py).
    """
    environ = os.environ
    if (
        environ.get(_IS_OF_AGENT) == "True"
        or environ["RANK"] != "0"
        or not {"MASTER_ADDR", "MASTER_PORT"} <= {*environ}
    ):
        return None
    try:
        return _store(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), int(environ["WORLD_SIZE"]), timeout)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return None  # torch says so, or uses the store that this process has made for earlier groups


def _store(address: str, port: int, num_ranks: int | None, timeout: timedelta) -> "TCPStore":
    """A store in this process. `num_ranks`: wait until that many ranks have connected, this process among them."""
    from torch.distributed import TCPStore  # which takes seconds to import

    everywhere = not is_loopback(address)
    has_both = everywhere and socket.has_dualstack_ipv6()
    with socket.create_server(
        ("" if everywhere else address, port),
        family=socket.AF_INET6 if has_both or ":" in address else socket.AF_INET,
        dualstack_ipv6=has_both,
        reuse_port=port > 0,
    ) as listener:
        port = listener.getsockname()[1]
        return TCPStore(
            address,
            port,
            num_ranks,
            is_master=True,
            wait_for_workers=num_ranks is not None,
            timeout=timeout,
            master_listen_fd=listener.detach(),  # the store closes it
        )
