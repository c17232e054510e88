"""Two programs for the tests to run, and to end in many ways.

`cluster FOLDER NUM_NODES` keeps a Ray cluster of a head without CPUs and of nodes with two each until stdin is closed,
and prints the address of its dashboard. `foreground JOB_FILE` runs a job on a cluster of its own.
"""

import socket
import sys
from pathlib import Path

from foretrain.launcher.ray import submission
from foretrain.launcher.ray.foreground import run_on_own_cluster


def cluster(folder: str, num_nodes: str) -> int:
    from ray.cluster_utils import Cluster

    Path(folder).mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    head = {
        "num_cpus": 0,
        "temp_dir": folder,
        "include_dashboard": True,
        "dashboard_port": port,
        "dashboard_agent_listen_port": 0,
        # A node that died is noticed in 3 s, not 15.
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 3},
    }
    nodes = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(int(num_nodes)):
        nodes.add_node(num_cpus=2, wait=False)
    nodes.wait_for_nodes()
    print(f"http://127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    nodes.shutdown()
    return 0


def foreground(file: str) -> int:
    text = Path(file).read_text()
    return run_on_own_cluster(submission.read(text).job, text)


if __name__ == "__main__":
    sys.exit(cluster(*sys.argv[2:]) if sys.argv[1] == "cluster" else foreground(sys.argv[2]))
