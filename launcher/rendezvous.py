"""Where ranks meet: a free port of the first node.

A batch script asks for it with `python -m foretrain.launcher.rendezvous JOB_ID`.
"""

import socket
import sys

FIRST_PORT, NUM_PORTS = 20_000, 10_000
"""Below the ports that Linux gives to outgoing connections (32768 and up), which come and go."""


def free_port(seed: int) -> int:
    """A port of this machine that nothing listens on; the first to be tried depends on `seed`, so that jobs differ.

    Raises RuntimeError where all are taken.
    """
    for offset in range(NUM_PORTS):
        port = FIRST_PORT + (seed + offset) % NUM_PORTS
        if _is_free(port):
            return port
    raise RuntimeError(f"no port from {FIRST_PORT} to {FIRST_PORT + NUM_PORTS - 1} is free")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as listener:
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 too, as torch's store listens
        # As the store does: what an earlier start left in TIME_WAIT is in nobody's way.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError:
            return False
        return True


if __name__ == "__main__":
    print(free_port(int(sys.argv[1])))
