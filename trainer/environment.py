"""What a run ran on: versions of the code and its libraries, written into the run's folder."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foretrain.trainer.run_folder import ENVIRONMENT_FILE

VERSION_FILE = "VERSION"
"""In a copy of the code: which version it is a copy of."""
PACKAGES = ("foretrain", "torch", "deepspeed", "megatron-core", "webdataset", "omegaconf", "numpy", "tokenizers")


def describe() -> dict[str, object]:
    """Python, platform, the command, library versions, and the code's commit where it is a git checkout."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "packages": {name: _version(name) for name in PACKAGES},
        "git": code_version(),
    }


def record(more: Mapping[str, object], run_dir: Path) -> None:
    """Write `describe()` and `more` into the run's folder, over what an earlier record has of the same."""
    path = run_dir / ENVIRONMENT_FILE
    before: dict[str, object] = {}
    with suppress(OSError, ValueError):  # a node may have died while it wrote
        before = json.loads(path.read_text(encoding="utf-8"))
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps({**before, **describe(), **more}, indent=1), encoding="utf-8")
    new.replace(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code_version() -> str | None:
    """What git calls the code: a commit, and whether it was changed since; None where nothing tells."""
    package = Path(__file__).parents[1]
    if (package / VERSION_FILE).is_file():
        return (package / VERSION_FILE).read_text(encoding="utf-8").strip()
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        answer = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
