"""What the ranks of the launcher's tests do. Nothing heavy is imported at the top."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path


def rank() -> int:
    return int(os.environ["RANK"])


def env(*names: str) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def all_reduce() -> float:
    """Sum of rank + 1 over ranks."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    x = torch.full((4,), float(rank() + 1))
    dist.all_reduce(x)
    dist.barrier()
    dist.destroy_process_group()
    return float(x[0])


def num_threads() -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def parameters() -> dict:
    import torch

    return {"weight": torch.arange(100_000.0) + rank()}


def start_method() -> str:
    import multiprocessing

    return multiprocessing.get_start_method()


def where() -> tuple[str, list[str], str]:
    return str(Path.cwd()), sys.argv, str(sys.modules["__main__"].__dict__.get("__file__"))


def unpicklable() -> object:
    return lambda: None


def talk() -> None:
    print(f"stdout of {rank()}")
    print(f"stderr of {rank()}", file=sys.stderr)
    libc = ctypes.CDLL(None)
    libc.puts(f"C of {rank()}".encode())
    libc.fflush(None)


def fail(ranks: list[int], how: str) -> None:
    """The named ranks fail in one of many ways; the others hang in a collective, as in training."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    dist.barrier()
    if rank() in ranks:
        print(f"last words of {rank()}")
        match how:
            case "RuntimeError":
                raise RuntimeError(f"boom on {rank()}")
            case "ValueError":
                raise ValueError("train.lr = -1 must be greater than 0")
            case "exit":
                sys.exit(7)
            case "exit with words":
                sys.exit("no such corpus")
            case "vanish":
                os._exit(9)
            case _:
                os.kill(os.getpid(), signal.Signals[how])
    while True:
        dist.all_reduce(torch.ones(1))


def bad_config() -> None:
    raise ValueError("train.lr = -1 must be greater than 0")


def exit_all(code: int) -> None:
    sys.exit(code)


def hang(folder: str, deaf: bool = False) -> None:
    """Write the own process id, and never end; deaf: not even for SIGTERM."""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (Path(folder) / f"pid-{rank()}").write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def hang_deaf(folder: str) -> None:
    hang(folder, deaf=True)


def hang_in_c(folder: str) -> None:
    """As a native call does that holds the interpreter's lock: no Python runs, in any thread."""
    (Path(folder) / f"pid-{rank()}").write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(1000)


def save_on_sigterm(folder: str) -> None:
    def save(signum: int, frame: object) -> None:
        time.sleep(0.3)
        (Path(folder) / f"saved-{rank()}").write_text("saved")
        sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    hang(folder)


def where_to_file(folder: str) -> None:
    (Path(folder) / f"where-{rank()}").write_text(str(Path.cwd()))


def wait_for_files(folder: Path, pattern: str, number: int, timeout_s: float = 300.0) -> list[Path]:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        found = sorted(path for path in folder.glob(pattern) if path.stat().st_size)
        if len(found) >= number:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{folder} has not {number} files {pattern}")


def signalled(folder: str, launcher: int, signums: list[int], how: str) -> None:
    """Rank 0 signals the launcher once all ranks are ready, and each rank then ends, or does not, in the named way."""
    received: list[int] = []
    if how != "default" and (how, rank()) != ("save slowly", 0):
        for handled in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(handled, lambda got, frame: received.append(got))
    (Path(folder) / f"ready-{rank()}").write_text("ready")
    wait_for_files(Path(folder), "ready-*", int(os.environ["WORLD_SIZE"]))
    if rank() == 0:
        for signum in signums:
            os.kill(launcher, signum)
            time.sleep(0.7)
    while how in ("default", "deaf") or not received:
        time.sleep(0.01)
    if how == "save slowly":
        time.sleep(2)
    (Path(folder) / f"saved-{rank()}").write_text(json.dumps(received))
    if how == "fail":
        raise RuntimeError(f"disk full on {rank()}")
    if how == "exit":
        sys.exit(85)


def where_a_run_listens(launcher: int) -> dict[str, dict[str, str]] | None:
    """On rank 0, the sockets at which the processes of a launcher listen while its ranks are connected."""
    import psutil

    from foretrain.parallel.groups import destroy_groups, init_groups
    from foretrain.parallel.layout import Layout
    from tests.sockets import listening, on_the_network, tree

    groups = init_groups(Layout(dp=int(os.environ["WORLD_SIZE"])), "cpu", timeout_s=60.0)
    import torch.distributed as dist

    dist.barrier(group=groups.cpu)
    processes = tree(psutil.Process(launcher))
    found = {"all": listening(processes), "on the network": on_the_network(processes)} if rank() == 0 else None
    dist.barrier(group=groups.cpu)
    destroy_groups()
    return found


def where_rank_0_has_the_store(launcher: int, port: int) -> dict[str, dict[str, str]] | None:
    """The same, for ranks that another launcher has started: rank 0 has their store."""
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.pop(name)
    os.environ["MASTER_PORT"] = str(port)
    return where_a_run_listens(launcher)
