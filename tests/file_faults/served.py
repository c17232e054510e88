"""Commands of foretrain in processes that have faults of files, without the seconds that each would need to import.

`python -m tests.file_faults.served` imports once, and runs each command in a fork of itself. A command is a line of
JSON on its standard input: arguments, working directory, environment, and the files for what it prints. The answer is a
line with the exit status.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cli import ROOT, Ended, environment


class Server:
    """Runs commands, one at a time."""

    def __init__(self, variables: Mapping[str, str], folder: Path, changed: Mapping[str, Any]) -> None:
        """`variables`: added to the environment. `folder`: for what is printed. `changed`: values of names in modules,
        by "package.module:NAME"."""
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.file_faults.served", json.dumps(changed)],
            cwd=ROOT,
            env={**environment(), "OMP_NUM_THREADS": "1", **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, cwd: Path, **variables: str) -> Ended:
        """Run a command, and return how it ended. `variables` are added to its environment."""
        out, err = self._folder / "out", self._folder / "err"
        asked = {"arguments": arguments, "cwd": str(cwd), "env": variables, "out": str(out), "err": str(err)}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server has ended"
        return Ended(int(answer), out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def _become_command(asked: Mapping[str, Any]) -> int:
    """Run a command in this process, and return its exit status."""
    from foretrain.verbs.app import main

    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(asked["cwd"])
    os.environ.update(asked["env"])
    sys.argv = ["foretrain", *asked["arguments"]]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001 (as Python does for a process of its own)
        traceback.print_exc()
        return 1
    return 0


def _serve() -> None:
    from foretrain.launcher.local.forkserver import PRELOAD
    from foretrain.launcher.local.imports import import_all

    import_all(("foretrain.verbs.app", *PRELOAD), will_fork=True)
    for name, value in json.loads(sys.argv[1]).items():
        module, _, attribute = name.partition(":")
        setattr(importlib.import_module(module), attribute, value)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = _become_command(json.loads(line))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    _serve()
