"""The folder of the fork server's socket; one of a process that was killed is deleted by the next that needs one."""

import os
import shutil
import stat
import tempfile
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing import util
from pathlib import Path

from foretrain.files import lock, lock_open_file

PREFIX, _NEW = "ftsock-", "new-ftsock-"
_LOCK = "owner"
_owned = ExitStack()
_MAX_PATH, _SOCKET = 107, f"/{PREFIX}12345678/pymp-12345678/listener-12345678"
"""Bytes of the path of a socket, and what is added to a temporary folder for one."""
SHORT = ("/tmp", "/var/tmp")
"""Folders for sockets if TMPDIR has too long a path."""


@cache
def own_socket_folder() -> None:
    """Have multiprocessing keep its sockets in a folder that this process has locked, and delete abandoned ones.

    multiprocessing deletes its folder when the process exits, and so leaves one for each process that is killed. The
    kernel releases the lock of a folder when its process ends, so a folder that can be locked is abandoned.
    """
    temporary, place = tempfile.gettempdir(), socket_place()
    for folder in Path(place).glob(f"{PREFIX}*"):
        delete_if_abandoned(folder)
    unlocked = Path(tempfile.mkdtemp(prefix=_NEW, dir=place))
    _owned.enter_context(lock(unlocked / _LOCK))
    folder = unlocked.rename(unlocked.with_name(unlocked.name.replace(_NEW, PREFIX)))
    tempfile.tempdir = str(folder)
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = temporary
    # After multiprocessing's own finalizer, which deletes its folder in this one.
    util.Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-101)


def socket_place() -> str:
    """The temporary folder for sockets: TMPDIR, or another one if its path is too long for a socket.

    Raises OSError, with what to do, if no other one can be written.
    """
    temporary = tempfile.gettempdir()
    for place in (temporary, *SHORT):
        if len(f"{place}{_SOCKET}".encode()) <= _MAX_PATH and os.access(place, os.W_OK | os.X_OK):
            return place
    raise OSError(
        f"the temporary folder {temporary} has too long a path for a socket, and {' and '.join(SHORT)} cannot be "
        f"written: set TMPDIR to a folder whose path has at most {_MAX_PATH - len(_SOCKET)} bytes"
    )


def delete_if_abandoned(folder: Path) -> None:
    """Delete a socket folder of this user whose process has ended, and leave all else as it is.

    Others may create anything in a shared temporary folder, so no link is followed, and no file is changed. On a file
    system without locks nothing is deleted, because a folder in use looks the same as an abandoned one
    there, and `foretrain.files.lock` would succeed.
    """
    with suppress(OSError), ExitStack() as opened:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        owner = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        opened.callback(os.close, owner)
        lock_open_file(owner)
        shutil.rmtree(folder, ignore_errors=True)
