"""A free port of the first node, at which the ranks meet.

Batch scripts run `python -m foretrain.launcher.rendezvous JOB_ID`, which prints it.
"""

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


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as listener:
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # and IPv4, as torch's store does
        # As torch's store does: connections of an earlier start in TIME_WAIT do no harm.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError:
            return False
        return True


if __name__ == "__main__":
    print(free_port(int(sys.argv[1])))
