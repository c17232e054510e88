"""The token of a private Ray cluster: a file that only its owner can read, in the cluster's folder."""

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from foretrain.launcher.private import write_private

FOLDER = "ray-"
"""What the name of the folder of a private cluster begins with, in the temporary folder."""
SESSIONS = "r"
"""Ray's own folder in it, which Ray lets everybody write: the one around it keeps others out."""


def make_folder() -> Path:
    """A new folder for a cluster, which only its owner can enter. Its path is short: Ray's sockets are in it."""
    return Path(tempfile.mkdtemp(prefix=FOLDER))


def make_token(folder: Path, port: int) -> dict[str, str]:
    """Make the token of the cluster whose dashboard is at `port`. Returns the variables by which Ray finds it."""
    path = folder / _name(port)
    write_private(path, secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def headers_of(address: str) -> dict[str, str]:
    """What a request to the dashboard at `address` needs: the token, if this user has a private cluster there."""
    with suppress(ValueError, OSError):
        parts = urlsplit(address)
        if parts.hostname == "127.0.0.1" and parts.port is not None:
            for path in Path(tempfile.gettempdir()).glob(f"{FOLDER}*/{_name(parts.port)}"):
                if _is_own(path.parent):  # others may make anything in a shared temporary folder
                    return {"Authorization": f"Bearer {path.read_text(encoding='ascii')}"}
    return {}


def _is_own(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _name(port: int) -> str:
    return f"token-{port}"
