"""The folder of the fork server's socket; one of a process that was killed is deleted by the next that needs one."""

import shutil
import tempfile
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing import util
from pathlib import Path

from foretrain.files import LockHeldError, lock

PREFIX, _NEW = "ftsock-", "new-ftsock-"
_LOCK = "owner"
_owned = ExitStack()
_MAX_PATH, _SOCKET = 107, "/pymp-12345678/listener-12345678"
"""Bytes of the path of a socket, and what multiprocessing adds to a folder for one."""


@cache
def own_socket_folder() -> None:
    """Have multiprocessing keep its sockets in a folder that this process has locked, and delete abandoned ones.

    multiprocessing deletes its folder when the process exits, and so leaves one for each process that is killed. The
    kernel releases the lock of a folder when its process ends, so a folder that can be locked is abandoned.
    """
    temporary = tempfile.gettempdir()
    for owner in Path(temporary).glob(f"{PREFIX}*/{_LOCK}"):
        with suppress(OSError, LockHeldError), lock(owner):  # it may be that of another user
            shutil.rmtree(owner.parent, ignore_errors=True)
    if len(f"{temporary}/{PREFIX}12345678{_SOCKET}".encode()) > _MAX_PATH:
        return  # multiprocessing's own folder, one level higher, may still fit
    unlocked = Path(tempfile.mkdtemp(prefix=_NEW))
    _owned.enter_context(lock(unlocked / _LOCK))
    folder = unlocked.rename(unlocked.with_name(unlocked.name.replace(_NEW, PREFIX)))
    tempfile.tempdir = str(folder)
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = temporary
    # After multiprocessing's own finalizer, which deletes its folder in this one.
    util.Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-101)
