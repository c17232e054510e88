"""The versions of the code, the libraries and the platform that a run uses, written into its folder."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foretrain.files import write_atomically
from foretrain.trainer.run.folder import ENVIRONMENT_FILE

VERSION_FILE = "VERSION"
"""File in a copy of the code that names the version it was copied from."""
PACKAGES = ("foretrain", "torch", "deepspeed", "megatron-core", "webdataset", "omegaconf", "numpy", "tokenizers")


def describe() -> dict[str, object]:
    """Python, platform, command, library versions, and the commit of the code if it is a git checkout."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "packages": {name: _version(name) for name in PACKAGES},
        "git": code_version(),
    }


def record(more: Mapping[str, object], run_dir: Path) -> None:
    """Write `describe()` and `more` into the run folder; they replace entries of the same names there."""
    path = run_dir / ENVIRONMENT_FILE
    before: dict[str, object] = {}
    with suppress(OSError, ValueError):  # there is no file yet, or a node died while it wrote
        before = json.loads(path.read_text(encoding="utf-8"))
    write_atomically(path, json.dumps({**before, **describe(), **more}, indent=1))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code_version() -> str | None:
    """The commit of the code, with "-dirty" if it was changed since; None if it is unknown."""
    package = Path(__file__).parents[2]
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
