"""A port of the first node, at which the ranks meet, and which nobody else can take until rank 0 listens there.

Batch scripts run `python -m foretrain.launcher.rendezvous JOB_ID`, which prints the port, and holds it until nobody
reads its output any more.
"""

import select
import socket
import sys

FIRST_PORT, NUM_PORTS = 20_000, 10_000
"""A range below the ports that Linux gives to outgoing connections (32768 and up)."""


def free_port(seed: int) -> int:
    """A port of this machine on which nothing listens. `seed`, such as a job id, decides where the search starts.

    Raises RuntimeError if all ports are taken.
    """
    for offset in range(NUM_PORTS):
        port = FIRST_PORT + (seed + offset) % NUM_PORTS
        if _is_free(port):
            return port
    raise RuntimeError(f"no port from {FIRST_PORT} to {FIRST_PORT + NUM_PORTS - 1} is free")


def reserve(seed: int) -> tuple[int, socket.socket]:
    """A port of this machine, and the socket that keeps it for a listener of this user with SO_REUSEPORT.

    `seed`, such as a job id, decides where the search starts. Others cannot listen at the port as long as the socket
    is open, so none of them can take the place of rank 0. Raises RuntimeError if all ports are taken.
    """
    for offset in range(NUM_PORTS):
        port = FIRST_PORT + (seed + offset) % NUM_PORTS
        holder = _new_socket()
        try:
            holder.bind(("", port))
        except OSError:
            holder.close()
            continue
        # Not before, so that no two jobs of this user share a port.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return port, holder
    raise RuntimeError(f"no port from {FIRST_PORT} to {FIRST_PORT + NUM_PORTS - 1} is free")


def _new_socket() -> socket.socket:
    """A socket for all interfaces, of IPv6 and IPv4, as that of torch's store is."""
    has_both = socket.has_dualstack_ipv6()
    found = socket.socket(socket.AF_INET6 if has_both else socket.AF_INET)
    if has_both:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return found


def _is_free(port: int) -> bool:
    with _new_socket() as listener:
        # As torch's store does: connections of an earlier start in TIME_WAIT do no harm.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError:
            return False
        return True


def main(seed: int) -> None:
    """Print a port, and hold it until nobody reads the output."""
    port, holder = reserve(seed)
    with holder:
        print(port, flush=True)
        reader = select.poll()
        reader.register(sys.stdout, 0)  # errors alone: the other end is closed
        reader.poll()


if __name__ == "__main__":
    main(int(sys.argv[1]))
