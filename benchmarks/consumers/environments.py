"""Environments of the consumers: each has one of its own, so that what one of them needs is in no other's way."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.consumers.commands import run
from foretrain.files import write_atomically

STAMP = "installed.json"


@dataclass(frozen=True)
class Environment:
    """What is installed for a consumer."""

    packages: tuple[str, ...]
    """Packages with their versions, as pip takes them."""
    removed: tuple[str, ...] = ()
    """Packages that the others ask for, but without which they work here."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What pip gets in addition to this program's environment."""

    def make(self, folder: Path, label: str) -> Path:
        """The interpreter of the environment in a folder, which is made unless it is there with the same packages.

        Raises CommandError if a package cannot be installed.
        """
        python, stamp = folder / "bin" / "python", folder / STAMP
        wanted = json.dumps({"packages": self.packages, "removed": self.removed}) + "\n"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return python
        log = folder.with_suffix(".log")
        run([sys.executable, "-m", "venv", "--clear", str(folder)], log, f"{label}: environment")
        pip = [str(python), "-m", "pip"]
        quiet = ["--disable-pip-version-check", "--progress-bar", "off"]
        run([*pip, "install", *quiet, *self.packages], log, f"{label}: installing", self.variables)
        if self.removed:
            run([*pip, "uninstall", "--yes", *self.removed], log, f"{label}: removing")
        write_atomically(stamp, wanted)
        return python


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of those packages that an environment has."""
    program = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    answer = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True, timeout=300)
    installed: dict[str, str] = json.loads(answer.stdout)
    return {name: installed[name] for name in packages if name in installed}
