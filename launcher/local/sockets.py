"""The folder of the fork server's socket; one of a process that was killed is deleted by the next that needs one."""

import shutil
import tempfile
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing import util
from pathlib import Path

from foretrain.files import LockHeldError, lock

PREFIX = "foretrain-sockets-"
_LOCK = "owner"
_owned = ExitStack()


@cache
def own_socket_folder() -> None:
    """Have multiprocessing keep its sockets in a folder that this process has locked, and delete abandoned ones.

    multiprocessing deletes its folder when the process exits, and so leaves one for each process that is killed. The
    kernel releases the lock of a folder when its process ends, so a folder that can be locked is abandoned.
    """
    temporary = tempfile.gettempdir()
    for folder in Path(temporary).glob(f"{PREFIX}*"):
        with suppress(OSError, LockHeldError), lock(folder / _LOCK):  # it may be that of another user
            shutil.rmtree(folder, ignore_errors=True)
    unlocked = Path(tempfile.mkdtemp(prefix="foretrain-new-"))
    _owned.enter_context(lock(unlocked / _LOCK))
    folder = unlocked.rename(unlocked.with_name(unlocked.name.replace("foretrain-new-", PREFIX)))
    tempfile.tempdir = str(folder)
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = temporary
    # After multiprocessing's own finalizer, which deletes its folder in this one.
    util.Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-101)
