"""The meeting point of ranks that are all on one machine: it listens on the loopback interface only."""

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


def loopback_store(
    address: str = ADDRESS, port: int = 0, num_ranks: int | None = None, timeout: timedelta = timedelta(minutes=5)
) -> "TCPStore":
    """A store at which ranks of this machine meet. torch's own would listen on every interface.

    Port 0 is a free one. `num_ranks`: wait until that many ranks have connected, this process among them. Raises
    OSError if something else listens at the port.
    """
    from torch.distributed import TCPStore  # which takes seconds to import

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
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


def own_store(timeout: timedelta) -> "TCPStore | None":
    """The store of rank 0 at MASTER_ADDR and MASTER_PORT; None unless it is on loopback, and this process has it."""
    environ = os.environ
    address = environ.get("MASTER_ADDR", "")
    if environ.get(_IS_OF_AGENT) == "True" or environ["RANK"] != "0" or not is_loopback(address):
        return None
    try:
        return loopback_store(address, int(environ["MASTER_PORT"]), int(environ["WORLD_SIZE"]), timeout)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return None  # torch says so, or uses the store that this process has made for earlier groups
