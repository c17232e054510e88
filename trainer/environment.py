"""What a run ran on: versions of the code and its libraries, written into the run's folder."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("foretrain", "torch", "deepspeed", "megatron-core", "webdataset", "omegaconf", "numpy", "tokenizers")


def describe() -> dict[str, object]:
    """Python, platform, the command, library versions, and the code's commit where it is a git checkout."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git("describe", "--always", "--dirty", "--abbrev=40"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of git in the code's folder; None where that is not the top of a checkout, or there is no git."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
