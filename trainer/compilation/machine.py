"""What compiling needs of a machine: a C++ compiler, Python's headers, and a folder for what is compiled. No torch."""

import hashlib
import os
import shutil
import sysconfig
from pathlib import Path
from tempfile import gettempdir

from foretrain.files import close_to_others

FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable of the environment in which torch looks for the folder."""
_ADVICE = f"set {FOLDER_VARIABLE} to a folder of your own, or train.compile=false"


def check_machine() -> None:
    """Raise ValueError, which says what to install or to change, if this machine cannot compile."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise ValueError(
            f"train.compile = true needs a C++ compiler, and there is no '{compiler}' on this machine: install one "
            "(apt-get install g++), name another one in the environment (CXX=clang++), or set train.compile=false"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise ValueError(
            f"train.compile = true needs the headers of Python, and there is no {headers / 'Python.h'}: install them "
            "(apt-get install python3-dev), or set train.compile=false"
        )
    use_own_folder()


def use_own_folder() -> Path:
    """The folder of compiled code, which is made if it is missing, and in which torch looks from now on.

    The files in it are executed, so it belongs to this user, and nobody else can write into it. Raises ValueError if
    there is no such folder.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named and Path(named).parent == Path(gettempdir()) and Path(named).name.startswith("torchinductor_"):
        named = None  # written by torch: a folder in /tmp whose name everybody knows
    own = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "foretrain"
    folders = [Path(named)] if named else [own, own / "compiled", own / "compiled" / _processor()]
    folder = folders[-1]
    try:
        for each in folders:
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            if problem := close_to_others(each, "the code"):
                raise ValueError(f"{problem}: {_ADVICE}")
    except OSError as error:
        raise ValueError(f"{folder} cannot keep compiled code ({error.strerror}): {_ADVICE}") from error
    os.environ[FOLDER_VARIABLE] = str(folder)
    return folder


def _processor() -> str:
    """A name for the kind of processor. The code is compiled for it, and nodes of a cluster may share a home folder."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))})
    return hashlib.sha256("\n".join(kind).encode()).hexdigest()[:16]
